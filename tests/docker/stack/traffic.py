"""Load on two variants at a steady rate, and what its clients saw of it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import httpx
import numpy as np

OBSERVATION_BYTES = 4 * 84 * 84


@dataclass
class Seen:
    """Every request: when it began and ended, in seconds since the epoch, and its status.

    0 where no answer came.
    """

    rows: list[tuple[float, float, int]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> np.ndarray:
        return np.array([ended - began for began, ended, _ in self.rows])

    def count(self, status: int) -> int:
        return sum(status == row[2] for row in self.rows)

    def began_before(self, moment: float) -> int:
        return sum(began <= moment for began, _, _ in self.rows)

    def ended_before(self, moment: float) -> int:
        return sum(ended <= moment for _, ended, _ in self.rows)


class Client(threading.Thread):
    """Asks one variant again and again, until it is told to stop or has asked often enough."""

    def __init__(
        self,
        url: str,
        variant: str,
        observations: int,
        interval: float,
        requests: int,
        bad_every: int,
    ) -> None:
        """Does not start yet.

        Args:
            url: of the service.
            variant: of pong.
            observations: in each request.
            interval: seconds between the starts of two requests.
            requests: how many at most.
            bad_every: which of them ask what cannot be answered, 0 for none.
        """
        super().__init__()
        self.seen = Seen()
        self.stop = threading.Event()
        self._path = f"{url}/v1/policies/pong/variants/{variant}/act"
        frames = np.random.default_rng(0).integers(0, 256, (observations, 4, 84, 84), np.uint8)
        self._body, self._interval = frames.tobytes(), interval
        self._requests, self._bad_every = requests, bad_every

    def run(self) -> None:
        headers = {"content-type": "application/octet-stream"}
        start = time.time()
        with httpx.Client(timeout=30.0, headers=headers, trust_env=False) as client:
            for number in range(self._requests):
                if self.stop.wait(max(0.0, start + number * self._interval - time.time())):
                    return
                bad = self._bad_every and number % self._bad_every == self._bad_every - 1
                self._ask(client, self._body[:-1] if bad else self._body)

    def _ask(self, client: httpx.Client, body: bytes) -> None:
        began = time.time()
        try:
            answer = client.post(self._path, content=body)
            status = answer.status_code
            if status == 503:
                self.seen.problems.append(f"{began:.3f} {answer.text}")
        except httpx.HTTPError as error:
            status = 0
            self.seen.problems.append(f"{began:.3f} {error!r}")
        self.seen.rows.append((began, time.time(), status))
