"""The service's processor time, read from its own metrics between blocks."""

from __future__ import annotations

import re

import httpx

from slimq.core.errors import ServiceError

METRIC = "process_cpu_seconds_total"
PRACTICE = 10
"""Scrapes that tell what a scrape itself costs the service."""
_LINE = re.compile(rf"^{METRIC}(?:\{{[^}}]*\}})? (\S+)$", re.MULTILINE)


class ProcessorMeter:
    """Reads processor time from `/metrics`.

    Attributes:
        problem: why there is none; None where there is.
    """

    def __init__(self, url: str, api_key: str | None, timeout: float) -> None:
        """Finds out whether there is any, and what it costs to ask.

        Args:
            url: of the metrics.
            api_key: of a service that asks for one.
            timeout: seconds that an answer may take.
        """
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._http = httpx.Client(headers=headers, timeout=timeout)
        self._url, self._cost = url, 0.0
        self.problem: str | None = None
        try:
            first = self._read()
            for _ in range(PRACTICE):
                last = self._read()
            self._cost = max(0.0, last - first) / PRACTICE
        except ServiceError as error:
            self.problem = str(error)

    def read(self) -> float | None:
        """Processor seconds so far; None where they are not to be had."""
        if self.problem is not None:
            return None
        try:
            return self._read()
        except ServiceError:
            return None

    def between(self, before: float | None, after: float | None) -> float | None:
        """Processor seconds between two readings, less what a reading costs.

        None where one is missing, or the later is the smaller: a process was replaced, or another
        replica has answered.
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
            raise ServiceError(self._url, answer.status_code, "no metrics for this client")
        found = _LINE.search(answer.text)
        if found is None:
            raise ServiceError(self._url, None, f"has no {METRIC}")
        try:
            return float(found[1])
        except ValueError as error:
            raise ServiceError(self._url, None, f"has {METRIC} {found[1]}") from error
