"""Reads the service's processor time from its metrics, between blocks."""

from __future__ import annotations

import re

import httpx

from slimq.core.errors import ServiceError

METRIC = "process_cpu_seconds_total"
COST_SCRAPES = 10
"""Scrapes used to measure what a scrape itself costs the service."""
_LINE = re.compile(rf"^{METRIC}(?:\{{[^}}]*\}})? (\S+)$", re.MULTILINE)


class ProcessorMeter:
    """Reads processor time from `/metrics`.

    Attributes:
        problem: why processor time is not available; None if it is.
    """

    def __init__(self, url: str, api_key: str | None, timeout: float) -> None:
        """Checks that processor time is available, and measures the cost of a scrape.

        Args:
            url: address of the metrics.
            api_key: API key; None if the service needs none.
            timeout: seconds to wait for a response.
        """
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._http = httpx.Client(headers=headers, timeout=timeout)
        self._url, self._cost = url, 0.0
        self.problem: str | None = None
        try:
            first = self._read()
            for _ in range(COST_SCRAPES):
                last = self._read()
            self._cost = max(0.0, last - first) / COST_SCRAPES
        except ServiceError as error:
            self.problem = str(error)

    def read(self) -> float | None:
        """Processor seconds used so far; None if not available."""
        if self.problem is not None:
            return None
        try:
            return self._read()
        except ServiceError:
            return None

    def between(self, before: float | None, after: float | None) -> float | None:
        """Processor seconds between two readings, less the cost of a reading.

        None if a reading is missing, or if the later one is smaller: a process was replaced, or
        another replica answered.
        """
        if before is None or after is None or after < before:
            return None
        return max(0.0, after - before - self._cost)

    def close(self) -> None:
        """Closes the connection."""
        self._http.close()

    def _read(self) -> float:
        try:
            answer = self._http.get(self._url)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise ServiceError(self._url, None, f"cannot be read ({error})") from error
        if answer.status_code != httpx.codes.OK:
            raise ServiceError(self._url, answer.status_code, "refuses metrics to this client")
        found = _LINE.search(answer.text)
        if found is None:
            raise ServiceError(self._url, None, f"does not report {METRIC}")
        try:
            return float(found[1])
        except ValueError as error:
            raise ServiceError(self._url, None, f"reports {METRIC} as {found[1]}") from error
