"""Generates load in a closed or an open loop.

In a closed loop each connection sends its next request when the previous one is answered. A stall
then keeps requests from being sent, and affects only the few in flight: coordinated omission (Tene,
"How NOT to Measure Latency", 2013). In an open loop requests are due at a constant rate, whatever
has been answered, and latency counts from when a request was due: waiting for a free connection is
part of it, and requests never sent count as dropped. Schroeder et al., "Open Versus Closed: A
Cautionary Tale" (NSDI 2006), discuss when each model is right.
"""

from __future__ import annotations

import asyncio
import gc
import math
import time
from array import array
from collections import Counter, deque
from dataclasses import dataclass, field

from slimq.loadtest.connection import Connection, Pool
from slimq.loadtest.plan import SETTLE_SHARE
from slimq.loadtest.requests import Requests
from slimq.loadtest.timer import PreciseTimer

OK = 200
TIMEOUT = "timeout"
SETTLE_SECONDS = 0.2
"""Maximum settling time excluded at a block's start, for after-effects of the previous block."""
_CHECK_SECONDS = 0.05


@dataclass
class BlockResult:
    """Measurements of one block of load.

    Attributes:
        seconds: length of the measured part.
        sent: requests sent, in the whole block.
        answered: requests answered with status 200, in the whole block.
        completed: those answered within the measured part.
        failed: other requests, by status or reason.
        dropped: requests that were due and never sent.
        latencies: seconds, of answered requests that were due in the measured part.
        lateness: seconds by which the generator noticed each due request late.
        first: when the first answer with status 200 came, by `time.perf_counter`.
        last: when the last one came.
        generator: share of time in which the generator's process was busy.
        took: seconds from the start of the block until no request was in flight.
    """

    seconds: float
    sent: int = 0
    answered: int = 0
    completed: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    dropped: int = 0
    latencies: array[float] = field(default_factory=lambda: array("d"))
    lateness: array[float] = field(default_factory=lambda: array("d"))
    first: float = 0.0
    last: float = 0.0
    generator: float = 0.0
    took: float = 0.0

    @property
    def pace(self) -> float | None:
        """Answers per second from the first to the last; None with fewer than two."""
        if self.last <= self.first:
            return None
        return (self.answered - 1) / (self.last - self.first)


async def drive_closed(
    pool: Pool, requests: Requests, seconds: float, timeout: float, first: int = 0
) -> BlockResult:
    """Keeps every connection of the pool busy.

    Args:
        pool: the connections.
        requests: the requests, sent in turn.
        seconds: how long to send; requests in flight are then awaited.
        timeout: seconds after which a request fails.
        first: index of the first body.
    """
    return await _Closed(pool, requests, seconds, timeout, first).run()


async def drive_open(
    pool: Pool, requests: Requests, seconds: float, timeout: float, rate: float, first: int = 0
) -> BlockResult:
    """Sends at a constant rate; if no connection is free, requests wait for one.

    A request is dropped if it has waited longer than the timeout, or if it is still waiting
    `seconds` after the last one was due.

    Args:
        pool: the connections.
        requests: the requests, sent in turn.
        seconds: how long requests are due.
        timeout: seconds after which a request fails or is dropped.
        rate: requests per second.
        first: index of the first body.
    """
    return await _Open(pool, requests, seconds, timeout, rate, first).run()


class _Block:
    """Common to both loops: the measured part, responses, failures, timeouts, the end."""

    def __init__(
        self, pool: Pool, requests: Requests, seconds: float, timeout: float, first: int
    ) -> None:
        settle = min(SETTLE_SHARE * seconds, SETTLE_SECONDS)
        self.result = BlockResult(seconds - settle)
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pool, self._timeout, self._requests = pool, timeout, requests
        self._next, self._in_flight = first, 0
        self._seconds, self._settle = seconds, settle
        self._begin = self._counts = self._stop = 0.0

    async def run(self) -> BlockResult:
        """Runs the block without garbage collection, which would distort the measurement."""
        gc.collect()
        gc.disable()
        self._pool.listener = self
        begin, processor = time.perf_counter(), time.process_time()
        try:
            self.begin()
            while not self.ended.done():
                await asyncio.wait([self.ended], timeout=_CHECK_SECONDS)
                self.check()
        finally:
            self.result.took = max(1e-9, time.perf_counter() - begin)
            self.result.generator = (time.process_time() - processor) / self.result.took
            self._pool.detach()
            self.close()
            gc.enable()
        return self.result

    def begin(self) -> None:
        """Starts the clock."""
        self._begin = time.perf_counter()
        self._counts, self._stop = self._begin + self._settle, self._begin + self._seconds

    def finished(self) -> bool:
        raise NotImplementedError

    def use(self, connection: Connection, now: float) -> None:
        """Uses a connection that has become free."""
        raise NotImplementedError

    def close(self) -> None:
        pass

    def answered(self, connection: Connection, status: int, now: float) -> None:
        self._in_flight -= 1
        result = self.result
        if status != OK:
            result.failed[str(status)] += 1
        else:
            if not result.answered:
                result.first = now
            result.answered += 1
            result.last = now
            if connection.due >= self._counts:
                result.latencies.append(now - connection.due)
            if self._counts <= now <= self._stop:
                result.completed += 1
        if self._pool.usable(connection):
            self.use(connection, now)
        self.end_if_finished()

    def failed(self, connection: Connection, reason: str) -> None:  # noqa: ARG002
        self._in_flight -= 1
        self.result.failed[reason] += 1
        self.end_if_finished()

    def opened(self, connection: Connection) -> None:
        self.use(connection, time.perf_counter())

    def check(self) -> None:
        """Times out requests that have waited too long for a response."""
        oldest = time.perf_counter() - self._timeout
        for connection in list(self._pool.open):
            if connection.busy and connection.sent < oldest:
                connection.abort(TIMEOUT)
        self.end_if_finished()

    def end_if_finished(self) -> None:
        if not self._in_flight and self.finished() and not self.ended.done():
            self.ended.set_result(None)

    def _send(self, connection: Connection, due: float) -> None:
        bodies = self._requests.bodies
        body = bodies[self._next % len(bodies)]
        self._next += 1
        self._in_flight += 1
        self.result.sent += 1
        connection.send((self._requests.head, body), due)


class _Closed(_Block):
    def begin(self) -> None:
        super().begin()
        for connection in list(self._pool.open):
            self._send(connection, time.perf_counter())

    def finished(self) -> bool:
        return time.perf_counter() >= self._stop

    def use(self, connection: Connection, now: float) -> None:
        if now < self._stop:
            self._send(connection, now)


class _Open(_Block):
    def __init__(
        self,
        pool: Pool,
        requests: Requests,
        seconds: float,
        timeout: float,
        rate: float,
        first: int,
    ) -> None:
        super().__init__(pool, requests, seconds, timeout, first)
        self._rate, self._total = rate, max(1, math.floor(seconds * rate))
        self._arrived = 0
        self._waiting: deque[float] = deque()
        self._free = deque(pool.open)
        self._timer = PreciseTimer(self._tick)

    def begin(self) -> None:
        super().begin()
        self._timer.set(self._begin)

    def finished(self) -> bool:
        return self._arrived >= self._total and not self._waiting

    def use(self, connection: Connection, now: float) -> None:
        self._free.append(connection)
        self._dispatch(now)

    def check(self) -> None:
        now = time.perf_counter()
        while self._waiting and (
            now - self._waiting[0] > self._timeout or now > 2 * self._stop - self._begin
        ):
            self._waiting.popleft()
            self.result.dropped += 1
        super().check()

    def close(self) -> None:
        self._timer.close()

    def _tick(self) -> None:
        now = time.perf_counter()
        due = self._begin + self._arrived / self._rate
        while self._arrived < self._total and due <= now:
            self._waiting.append(due)
            self.result.lateness.append(now - due)
            self._arrived += 1
            due = self._begin + self._arrived / self._rate
        if self._arrived < self._total:
            self._timer.set(due)
        self._dispatch(now)

    def _dispatch(self, now: float) -> None:
        while self._waiting and self._free:
            connection = self._free.popleft()
            if connection.busy or not self._pool.usable(connection):
                continue
            due = self._waiting.popleft()
            if now - due > self._timeout:
                self._free.appendleft(connection)
                self.result.dropped += 1
            else:
                self._send(connection, due)
