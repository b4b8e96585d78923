"""Workers of real services that stop, or whose event loop is stuck in a call."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from builders import make_mlp
from processes import state_of
from waiting import until

ACT = "/v1/policies/tiny/act"
BODY = {"observations": [[0, 0, 0, 0]]}
STUCK = """
import ctypes, os, signal, sys

def stick(number, frame):
    ctypes.PyDLL(None).usleep(int(float(os.environ["STUCK_SECONDS"]) * 1e6))  # keeps the GIL

if sys.argv[:1] == ["-m"]:
    signal.signal(signal.SIGUSR1, stick)
"""
"""On SIGUSR1 a worker is in a call of C for a while."""


class Workers:
    """A service with two workers."""

    def __init__(self, process: Any) -> None:
        self.process, self.url = process, process.url

    def events(self, event: str) -> list[Any]:
        lines = self.process.log.read_text().splitlines()
        found = [json.loads(line) for line in lines if line[:1] == "{"]
        return [line for line in found if line["event"] == event]

    def ready(self) -> Any:
        answer = httpx.get(self.url + "/readyz", timeout=30)
        assert answer.status_code == 200
        return answer.json()

    def pids(self) -> list[int]:
        return [worker["pid"] for worker in self.ready()["workers"]]

    def states(self) -> list[str]:
        return [worker["state"] for worker in self.ready()["workers"]]

    def metric(self, name: str) -> float:
        rows = httpx.get(self.url + "/metrics", timeout=30).text.splitlines()
        (row,) = [row for row in rows if row.startswith(name + " ")]
        return float(row.split()[-1])

    def act(self) -> float:
        """How long a request on a connection of its own takes."""
        began = time.monotonic()
        httpx.post(self.url + ACT, json=BODY, timeout=60).raise_for_status()
        return time.monotonic() - began


@pytest.fixture
def launch(tiny_repository: Path, tmp_path: Path, process_class: Any) -> Iterator[Any]:
    started: list[Any] = []
    (tmp_path / "stuck").mkdir()
    (tmp_path / "stuck" / "sitecustomize.py").write_text(STUCK)
    path = os.pathsep.join((str(tmp_path / "stuck"), os.environ.get("PYTHONPATH", "")))

    def begin(**variables: str) -> Workers:
        variables.update(SLIMQ_WORKERS="2", PYTHONPATH=path)
        started.append(process_class(tiny_repository, tmp_path / "log", **variables))
        workers = Workers(started[-1])
        until(lambda: workers.states() == ["answering"] * 2, 60)
        return workers

    yield begin
    for process in started:
        process.close()


def test_a_stopped_worker_is_reported_passed_over_and_replaced(launch: Any) -> None:
    workers = launch()
    stopped, other = workers.pids()
    os.kill(stopped, signal.SIGSTOP)
    until(lambda: workers.events("worker stalled"), 10)
    assert state_of(stopped) == "T"
    ready = workers.ready()
    assert ready["workers"] == [
        {"index": 0, "pid": stopped, "state": "stalled"},
        {"index": 1, "pid": other, "state": "answering"},
    ]
    assert ready["problem"] == f"workers that do not answer: 0 (process {stopped})"
    assert (workers.metric("slimq_workers"), workers.metric("slimq_workers_stalled")) == (1, 1)
    assert workers.metric("slimq_ready") == 1
    assert max(workers.act() for _ in range(20)) < 2
    for method, path in (
        ("GET", "/v2/models/tiny/stats"),
        ("POST", "/v2/repository/models/tiny/load"),
        ("POST", "/v2/repository/models/tiny/unload"),
    ):
        began = time.monotonic()
        assert httpx.request(method, workers.url + path, timeout=60).status_code == 200
        assert time.monotonic() - began < 2
    until(lambda: workers.states() == ["answering"] * 2, 60)
    assert stopped not in workers.pids()
    assert workers.ready()["problem"] is None
    names = ("slimq_workers", "slimq_worker_restarts_total", "slimq_worker_stalls_total")
    assert [workers.metric(name) for name in names] == [2, 1, 1]


def test_what_a_stopped_worker_has_not_taken_over_is_answered_by_others(launch: Any) -> None:
    """It is given connections until it is noticed, and may be so for long."""
    workers = launch(SLIMQ_WORKER_STALL_SECONDS="60")
    stopped = workers.pids()[0]
    with ThreadPoolExecutor(20) as pool:
        os.kill(stopped, signal.SIGSTOP)
        seconds = list(pool.map(lambda _: workers.act(), range(40)))
    assert max(seconds) > 1, "none was given to it"
    assert max(seconds) < 15
    assert workers.metric("slimq_worker_restarts_total") == 0
    os.kill(stopped, signal.SIGCONT)
    until(lambda: workers.states() == ["answering"] * 2, 30)


def test_a_stuck_worker_does_not_put_off_the_end(launch: Any) -> None:
    workers = launch(SLIMQ_WORKER_STALL_SECONDS="3")
    os.kill(workers.pids()[0], signal.SIGSTOP)
    workers.process.process.send_signal(signal.SIGTERM)
    assert workers.process.process.wait(20) == 0


@pytest.mark.parametrize("seconds", [60, 4])
def test_an_event_loop_that_is_stuck_is_replaced_and_one_that_comes_back_is_not(
    launch: Any, seconds: int
) -> None:
    workers = launch(STUCK_SECONDS=str(seconds))
    before = workers.pids()
    os.kill(before[1], signal.SIGUSR1)
    until(lambda: workers.events("worker stalled"), 10)
    until(lambda: workers.states() == ["answering"] * 2, 60)
    if seconds == 60:
        assert workers.pids()[0] == before[0]
        assert workers.pids()[1] != before[1]
        assert workers.metric("slimq_worker_stalls_total") == 1
        assert [line["status"] for line in workers.events("worker died")] == [-signal.SIGKILL]
    else:
        assert workers.events("worker recovered")
        assert workers.pids() == before
        assert workers.metric("slimq_worker_restarts_total") == 0


def test_a_stall_that_nobody_notices_is_none(launch: Any) -> None:
    workers = launch(STUCK_SECONDS="1")
    for _ in range(3):
        for pid in workers.pids():
            os.kill(pid, signal.SIGUSR1)
        time.sleep(1.2)
    assert workers.states() == ["answering"] * 2
    assert not workers.events("worker stalled")


def test_a_suspended_machine_costs_no_worker(launch: Any) -> None:
    """All processes stand still for longer than a stall may last, and do not wake at once."""
    workers = launch(SLIMQ_WORKER_STALL_SECONDS="3")
    before = workers.pids()
    everybody = [workers.process.process.pid, *before]
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(6)
    for pid in everybody:
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.5)
    time.sleep(1)
    assert workers.pids() == before
    assert workers.states() == ["answering"] * 2
    assert not workers.events("worker died")


def test_a_worker_that_loads_a_large_model_is_not_stuck(launch: Any, repositories: Any) -> None:
    workers = launch(SLIMQ_WORKER_STALL_SECONDS="2")
    before = workers.pids()
    repositories.publish("tiny", "large", make_mlp(0, width=1_500_000))
    path = "/v1/policies/tiny/variants/large/act"
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(httpx.post(workers.url + path, json=BODY, timeout=120))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 4
    assert workers.pids() == before
    assert not workers.events("worker died")
