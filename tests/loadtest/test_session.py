"""What a plan does beyond its blocks: how far the steps climb."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from slimq.core.errors import ServiceError
from slimq.loadtest import session
from slimq.loadtest.capacity import find_capacities
from slimq.loadtest.plan import Plan, Subject
from slimq.loadtest.processor_time import ProcessorMeter
from slimq.loadtest.recording import Recording
from slimq.loadtest.requests import Address, Requests
from slimq.loadtest.service import Service
from slimq.loadtest.session import Progress, run_plan
from slimq.loadtest.stop import Stop, StoppedError, TimeIsUpError

HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"

BUSY = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"


class Sleeper:
    """A server on a thread that answers each request after a while, as many at once as come.

    Attributes:
        address: where it is.
        takes: seconds, by the body of a request; a body with None is answered with 503.
    """

    def __init__(self, takes: dict[bytes, float | None]) -> None:
        self.takes = takes
        self._loop = asyncio.new_event_loop()
        self._writers: set[Any] = set()
        self._server: Any = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._call(self._listen(0))
        self.address = Address(*self._server.sockets[0].getsockname()[:2], False, "")

    def stop(self) -> None:
        """Ends all connections, and takes no more."""
        self._call(self._stop())

    def resume(self) -> None:
        """Takes connections again, on the same port."""
        self._call(self._listen(self.address.port))

    def close(self) -> None:
        self.stop()
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
                seconds = self.takes[request[-1:]]
                await asyncio.sleep(seconds or 0.001)
                writer.write(BUSY if seconds is None else ANSWER)
        self._writers.discard(writer)
        writer.close()


@pytest.fixture
def sleeper() -> Iterator[Callable[..., Sleeper]]:
    started: list[Sleeper] = []

    def begin(**takes: float | None) -> Sleeper:
        started.append(Sleeper({name.encode(): value for name, value in takes.items()}))
        return started[-1]

    yield begin
    for server in started:
        server.close()


TRIES = 6
"""Of rates, which a machine that is busy with other things may not hold."""


def run(
    server: Sleeper,
    on_block: Callable[[Progress], Any] = lambda progress: None,
    stop: Stop | None = None,
    recording: Recording | None = None,
    **options: Any,
) -> tuple[Plan, Recording]:
    names = [body.decode() for body in server.takes]
    subjects = tuple(Subject(name, name) for name in names)
    short: dict[str, Any] = {"warm_seconds": 0.15, "connections": 1, "rounds": 2, "order": "alone"}
    plan = Plan(subjects=subjects, baseline=names[0], **{**short, **options})
    requests = {name: Requests(HEAD, (name.encode(),)) for name in names}
    recording = recording or Recording()
    meter = ProcessorMeter("http://127.0.0.1:9/metrics", None, 1)
    try:
        run_plan(Service(server.address, requests, meter), plan, recording, on_block, stop)
    finally:
        meter.close()
    return plan, recording


@pytest.mark.slow
@pytest.mark.alone
def test_steps_climb_to_what_all_connections_could_carry_and_say_where_they_stop(
    sleeper: Any,
) -> None:
    """Slow in the warm-up and fast after it: every rate that is tried is held."""
    for _ in range(TRIES):
        server = sleeper(a=0.02)
        plan, recording = run(
            server,
            lambda progress, server=server: server.takes.update({b"a": 0.0}),
            modes=("steps",),
            max_connections=8,
            sweeps=1,
            step=2,
            step_seconds=0.3,
            p99_us=1e6,
        )
        (capacity,) = find_capacities(recording, plan)
        if capacity.ended == "cap":
            break
    assert (capacity.ended, capacity.capped) == ("cap", True)
    assert recording.endings == {("a", 0): "cap"}
    rates = [sample.rate or 0.0 for sample in recording.samples]
    # From a quarter of the warm-up's rate to at most twice that of eight connections.
    assert 30 * rates[0] < capacity.rate == max(rates) < 65 * rates[0]


def test_time_in_which_garbage_is_collected_is_not_the_services(
    sleeper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After thousands of tests a collection takes longer than a short warm-up."""
    monkeypatch.setattr(gc, "collect", lambda: time.sleep(0.4))
    for _ in range(TRIES):
        _, recording = run(sleeper(a=0.01), modes=("open",), rounds=1, seconds=0.2)
        (sample,) = recording.of("open")
        assert sample.rate is not None
        if sample.rate > 0.25 / 0.01:
            break
    assert 0.25 / 0.01 < sample.rate <= 0.5 / 0.01


def test_blocks_of_a_slow_service_are_made_longer_and_it_says_so(sleeper: Any) -> None:
    """A request takes longer than the warm-up."""
    server = sleeper(a=0.5)
    plan, recording = run(
        server,
        lambda progress: server.takes.update({b"a": 0.0}),
        modes=("open",),
        connections=4,
        rounds=1,
    )
    (sample,) = recording.of("open")
    assert sample.rate is not None
    assert 1 < sample.rate <= 0.5 * 4 / 0.5
    assert (sample.answered, sample.p50_us is None) == (sample.sent, False)
    assert sample.sent >= 10
    seconds = plan.open_seconds(sample.rate)
    assert recording.notes == [
        f"open: blocks of {seconds:g} s instead of 0.5 s, so that 10 requests count in each"
    ]


def test_a_service_that_is_restarted_between_blocks_is_waited_for(sleeper: Any) -> None:
    server = sleeper(a=0.001, b=0.001)
    waiting: list[threading.Timer] = []

    def restart(progress: Progress) -> None:
        if progress.sample is not None and not waiting:
            server.stop()
            waiting.append(threading.Timer(0.2, server.resume))
            waiting[0].start()

    _, recording = run(server, restart, modes=("closed",), rounds=3, seconds=0.1, timeout=30.0)
    assert len(recording.samples) == 6
    (note,) = recording.notes
    assert note.startswith("closed: the service refused connections for ")
    assert note.endswith(" s before a block of a")


def test_a_service_that_stays_away_ends_the_test(sleeper: Any) -> None:
    server = sleeper(a=0.001)

    def end(progress: Progress) -> None:
        if progress.sample is not None:
            server.stop()

    with pytest.raises(ServiceError, match="cannot be reached"):
        run(server, end, modes=("closed",), rounds=3, seconds=0.1, timeout=0.2)


@pytest.mark.slow
@pytest.mark.alone
def test_a_step_that_finds_no_service_is_not_held_and_the_next_is_tried(sleeper: Any) -> None:
    options = {"max_connections": 2, "step": 2, "step_seconds": 0.2, "p99_us": 1e6}
    for _ in range(TRIES):
        server = sleeper(a=0.01)
        seen: list[dict[str, int]] = []

        def restart(progress: Progress, server: Any = server, seen: Any = seen) -> None:
            if progress.sample is not None:
                seen.append(progress.sample.failed)
                if len(seen) == 1:
                    server.stop()
                elif seen[-1] == {"refused": 1}:
                    server.resume()

        _, recording = run(server, restart, modes=("steps",), sweeps=1, timeout=0.2, **options)
        if len(seen) > 2:
            break
    assert seen[1] == {"refused": 1}
    assert len(seen) > 2
    assert recording.samples[2].answered > 0


def test_a_variant_that_fails_is_left_out_while_two_others_remain(sleeper: Any) -> None:
    server = sleeper(a=0.001, b=0.001, c=None)
    options: dict[str, Any] = {"modes": ("closed", "open"), "rate": 100.0, "seconds": 0.15}
    _, recording = run(server, **options)
    (note,) = recording.notes
    assert note.startswith("dropped from the test, c: no request was answered (")
    assert note.endswith(" × 503)")
    assert [sample.label for sample in recording.samples] == ["a", "a", "b", "b"] * 2
    with pytest.raises(ServiceError, match="c: no request was answered"):
        run(sleeper(a=0.001, c=None), **options)
    with pytest.raises(ServiceError, match="c: no request was answered"):
        run(sleeper(c=None, a=0.001, b=0.001), **options)


def test_a_variant_that_stops_answering_is_left_out_after_two_blocks(sleeper: Any) -> None:
    server = sleeper(a=0.001, b=0.001, c=0.001)

    def fail(progress: Progress) -> None:
        if progress.sample is not None:
            server.takes[b"c"] = None

    _, recording = run(server, fail, modes=("closed",), rounds=4, seconds=0.05)
    assert [sample.label for sample in recording.samples].count("c") == 2
    assert len(recording.notes) == 1


def test_alone_each_variant_climbs_all_its_sweeps_before_the_next(sleeper: Any) -> None:
    server = sleeper(a=0.002, b=0.002)
    options = {"max_connections": 1, "step": 4, "step_seconds": 0.1, "p99_us": 1.0}
    _, recording = run(server, modes=("steps",), sweeps=2, **options)
    assert [(s.label, s.number) for s in recording.samples] == [
        (label, sweep) for label in "ab" for sweep in (0, 0, 1, 1)
    ]


def test_every_variant_gets_the_same_observations_in_the_same_round(
    monkeypatch: pytest.MonkeyPatch, sleeper: Any
) -> None:
    first: dict[int, list[int]] = {}
    drive = session.drive_closed

    async def listen(pool: Any, requests: Any, *others: Any) -> Any:
        if len(others) == 3:  # a block, not the warm-up
            first.setdefault(others[2], []).append(1)
        return await drive(pool, requests, *others)

    monkeypatch.setattr(session, "drive_closed", listen)
    run(sleeper(a=0.001, b=0.001), modes=("closed",), rounds=3, seconds=0.05)
    assert list(first.values()) == [[1, 1]] * 3


def test_who_asks_for_the_end_gets_it_with_what_was_measured(sleeper: Any) -> None:
    stop = Stop()
    seen: list[Progress] = []

    def ask(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == 4:
            stop.request()
            stop.request()

    recording = Recording()
    with pytest.raises(StoppedError):
        run(sleeper(a=0.001, b=0.001), ask, stop=stop, recording=recording, modes=("closed",))
    assert len(recording.samples) == 2
    with pytest.raises(StoppedError):  # it was asked before it began
        run(sleeper(a=0.001), stop=stop, modes=("closed",))


def test_a_stop_from_another_thread_ends_a_block_in_its_midst(sleeper: Any) -> None:
    stop = Stop()
    timer = threading.Timer(0.6, stop.request)
    timer.start()
    begin = time.monotonic()
    with pytest.raises(StoppedError):
        run(sleeper(a=0.001), stop=stop, modes=("closed",), rounds=1, seconds=30.0)
    assert time.monotonic() - begin < 15


def test_the_time_limit_holds_in_the_warm_up_too(sleeper: Any) -> None:
    recording = Recording()
    with pytest.raises(TimeIsUpError):
        run(sleeper(a=0.001, b=0.001), recording=recording, minutes=0.2 / 60)
    assert recording.samples == []


@pytest.mark.slow
@pytest.mark.alone
def test_a_machine_that_has_become_slower_holds_less_and_not_nothing(sleeper: Any) -> None:
    """After the first sweep each request takes five times as long."""
    for _ in range(TRIES):
        server = sleeper(a=0.002)

        def slow(progress: Progress, server: Any = server) -> None:
            if progress.sample is not None and progress.sample.number == 1:
                server.takes[b"a"] = 0.01

        options = {"max_connections": 1, "step": 1.5, "step_seconds": 0.4, "p99_us": 50_000.0}
        plan, recording = run(server, slow, modes=("steps",), sweeps=2, **options)
        (capacity,) = find_capacities(recording, plan)
        if capacity.rates[1]:
            break
    fast, slower = capacity.rates
    assert 0 < slower < fast
    assert set(recording.endings) == {("a", 0), ("a", 1)}
