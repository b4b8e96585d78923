"""What a plan does beyond its blocks: how far the steps climb."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from slimq.evaluation.loadtest.analysis import find_ceilings
from slimq.evaluation.loadtest.plan import Plan, Subject
from slimq.evaluation.loadtest.processor import Meter
from slimq.evaluation.loadtest.recording import Recording
from slimq.evaluation.loadtest.requests import Address, Requests
from slimq.evaluation.loadtest.session import Progress, Service, run_plan

HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Sleeper:
    """A server on a thread that answers each request after a while, as many at once as come.

    Attributes:
        address: where it is.
        takes: seconds, by the body of a request.
    """

    def __init__(self, takes: dict[bytes, float]) -> None:
        self.takes = takes
        self._loop = asyncio.new_event_loop()
        self._writers: set[Any] = set()
        self._server: Any = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._call(self._listen(0))
        self.address = Address(*self._server.sockets[0].getsockname()[:2], False, "")

    def close(self) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _call(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self, port: int) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)

    async def _stop(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0.05)

    async def _serve(self, reader: Any, writer: Any) -> None:
        self._writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                request = await reader.readexactly(len(HEAD) + 1)
                await asyncio.sleep(self.takes[request[-1:]])
                writer.write(ANSWER)
        self._writers.discard(writer)
        writer.close()


@pytest.fixture
def sleeper() -> Iterator[Callable[..., Sleeper]]:
    started: list[Sleeper] = []

    def begin(**takes: float) -> Sleeper:
        started.append(Sleeper({name.encode(): value for name, value in takes.items()}))
        return started[-1]

    yield begin
    for server in started:
        server.close()


def run(
    server: Sleeper, on_block: Callable[[Progress], Any] = lambda progress: None, **options: Any
) -> tuple[Plan, Recording]:
    names = [body.decode() for body in server.takes]
    subjects = tuple(Subject(name, name) for name in names)
    short: dict[str, Any] = {"warm_seconds": 0.4, "connections": 1, "rounds": 2, "order": "alone"}
    plan = Plan(subjects=subjects, baseline=names[0], **{**short, **options})
    requests = {name: Requests(HEAD, (name.encode(),)) for name in names}
    recording = Recording()
    meter = Meter("http://127.0.0.1:9/metrics", None, 1)
    try:
        run_plan(Service(server.address, requests, meter), plan, recording, on_block)
    finally:
        meter.close()
    return plan, recording


def test_steps_climb_to_what_all_connections_could_carry_and_say_where_they_stop(
    sleeper: Any,
) -> None:
    """Slow in the warm-up and fast after it: every rate that is tried is held."""
    server = sleeper(a=0.05)
    plan, recording = run(
        server,
        lambda progress: server.takes.update({b"a": 0.0}),
        modes=("steps",),
        most_connections=8,
        sweeps=1,
        step=2,
        step_seconds=0.3,
        p99_us=1e6,
    )
    (ceiling,) = find_ceilings(recording, plan)
    assert (ceiling.ended, ceiling.capped) == ("cap", True)
    assert recording.capped == {("a", 0)}
    rates = [sample.rate or 0.0 for sample in recording.samples]
    # From a quarter of the warm-up's rate to at most twice that of eight connections.
    assert 30 * rates[0] < ceiling.rate == max(rates) < 65 * rates[0]


def test_blocks_of_a_slow_service_are_made_longer_and_it_says_so(sleeper: Any) -> None:
    """A request takes twice as long as the warm-up, and as the half second of a block."""
    server = sleeper(a=0.8)
    plan, recording = run(
        server,
        lambda progress: server.takes.update({b"a": 0.0}),
        modes=("open",),
        connections=4,
        rounds=1,
    )
    (sample,) = recording.of("open")
    assert sample.rate is not None
    assert 1 < sample.rate <= 0.5 * 4 / 0.8
    assert (sample.answered, sample.p50_us is None) == (sample.sent, False)
    assert sample.sent >= 10
    seconds = plan.open_seconds(sample.rate)
    assert recording.notes == [
        f"open: blocks of {seconds:g} s instead of 0.5 s, so that 10 requests count in each"
    ]
