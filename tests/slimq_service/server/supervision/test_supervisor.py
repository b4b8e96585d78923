"""Several real workers behind one port: totals, control, deaths and ends."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import httpx
import pytest

from builders import build_repository
from processes import has_ended
from slimq.core.errors import InvalidInputError
from slimq_service.server.sockets import bind
from slimq_service.server.supervision.supervisor import Supervisor
from slimq_service.settings import Settings
from waiting import until

ACT = "/v1/policies/tiny/act"
BODY = {"observations": [[0, 0, 0, 0]]}
LABELS = '{policy="tiny",variant="fp32"}'


@pytest.fixture(scope="module")
def workers(process_class: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("workers")
    root = build_repository(folder / "policies")
    process = process_class(root, folder / "log", SLIMQ_WORKERS="2")
    until(lambda: len(pids(process)) == 2, 30)
    yield process
    process.close()


@pytest.fixture
def launch(tiny_repository: Path, tmp_path: Path, process_class: Any) -> Iterator[Any]:
    started: list[Any] = []

    def begin(**variables: str) -> Any:
        process = process_class(
            tiny_repository, tmp_path / f"log-{len(started)}", SLIMQ_WORKERS="2", **variables
        )
        started.append(process)
        until(lambda: len(pids(process)) == 2, 30)
        return process

    yield begin
    for process in started:
        process.close()


def events(process: Any, event: str) -> list[Any]:
    lines = [json.loads(line) for line in process.log.read_text().splitlines() if line[:1] == "{"]
    return [line for line in lines if line.get("event") == event]


def pids(process: Any) -> list[int]:
    dead = {line["pid"] for line in events(process, "worker died")}
    return [e["pid"] for e in events(process, "worker ready") if e["pid"] not in dead]


def cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def act(process: Any) -> int:
    """The status of a request on a connection of its own."""
    connection = HTTPConnection("127.0.0.1", process.port, timeout=30)
    try:
        headers = {"content-type": "application/json"}
        connection.request("POST", ACT, json.dumps(BODY), headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def metric(process: Any, name: str) -> float:
    text = httpx.get(process.url + "/metrics").text
    values = [row.rpartition(" ")[2] for row in text.splitlines() if row.startswith(name + " ")]
    assert len(values) == 1, name
    return float(values[0])


def test_totals_are_right_whichever_worker_is_asked(workers: Any) -> None:
    before = metric(workers, "slimq_requests_total" + LABELS)
    for _ in range(30):
        assert act(workers) == 200
    for _ in range(8):
        assert metric(workers, "slimq_requests_total" + LABELS) == before + 30
        assert metric(workers, "slimq_http_request_seconds_count" + LABELS) == before + 30
    assert metric(workers, "slimq_workers") == 2
    assert metric(workers, "process_resident_memory_bytes") > 40e6
    url = workers.url + "/v2/models/tiny/versions/fp32/stats"
    totals = [httpx.get(url).json()["model_stats"][0]["inference_count"] for _ in range(8)]
    assert len(set(totals)) == 1
    assert totals[0] >= 30


def test_metrics_have_the_same_names_and_help_as_with_one_worker(
    workers: Any, service: Any
) -> None:
    def described(text: str) -> set[str]:
        return {row for row in text.splitlines() if row.startswith("# HELP slimq_")}

    several = described(httpx.get(workers.url + "/metrics").text)
    one = described(service.get("/metrics").text)
    missing = {row for row in one - several if "shadow" not in row}
    assert missing == set()


def test_load_and_unload_reach_every_worker(workers: Any) -> None:
    name = 'slimq_variant_loaded{policy="tiny",variant="other"}'
    models = workers.url + "/v2/repository/models/tiny"
    body = {"parameters": {"variants": ["other"]}}
    assert httpx.post(models + "/load", json=body, timeout=30).status_code == 200
    assert metric(workers, name) == 2
    assert httpx.post(models + "/unload", json=body, timeout=30).status_code == 200
    assert metric(workers, name) == 0


def test_a_killed_worker_is_replaced_and_the_others_go_on(launch: Any) -> None:
    process = launch()
    ended, outcomes = threading.Event(), []

    def load() -> None:
        while not ended.is_set():
            try:
                outcomes.append(act(process))
            except (OSError, HTTPException):
                outcomes.append(0)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    killed = pids(process)[0]
    spent = cpu_seconds(killed)
    os.kill(killed, signal.SIGKILL)
    until(lambda: len(pids(process)) == 2 and killed not in pids(process), 30)
    replaced = len(outcomes)
    until(lambda: len(outcomes) > replaced + 50, 30)
    ended.set()
    for thread in threads:
        thread.join()
    lost = outcomes.count(0)
    assert set(outcomes) <= {0, 200}
    assert lost <= 4  # what that worker was answering, one for each client
    assert set(outcomes[replaced:]) == {200}
    total = metric(process, "slimq_requests_total" + LABELS)
    # It may have been killed between sending a response and counting it.
    assert len(outcomes) - lost - 1 <= total <= len(outcomes)
    alive = sum(cpu_seconds(pid) for pid in pids(process))
    assert metric(process, "process_cpu_seconds_total") >= alive + spent > alive
    assert metric(process, "slimq_worker_restarts_total") == 1
    assert metric(process, "slimq_requests_in_flight") == 0
    died = events(process, "worker died")
    assert [(line["pid"], line["status"]) for line in died] == [(killed, -signal.SIGKILL)]


def test_it_goes_on_unready_for_a_while_and_then_ends_cleanly(launch: Any) -> None:
    process = launch(SLIMQ_DRAIN_SECONDS="1.5")
    assert httpx.get(process.url + "/readyz").status_code == 200
    workers = pids(process)
    process.process.send_signal(signal.SIGTERM)
    until(lambda: httpx.get(process.url + "/readyz").status_code == 503, 30)
    assert httpx.get(process.url + "/readyz").json()["problem"] == "the service is shutting down"
    assert act(process) == 200
    assert process.process.wait(timeout=20) == 0
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_who_interrupts_again_does_not_wait_for_requests(launch: Any) -> None:
    process = launch(SLIMQ_SHUTDOWN_SECONDS="60")
    head = (
        b"POST /v1/policies/tiny/act HTTP/1.1\r\nhost: x\r\n"
        b"content-type: application/json\r\ncontent-length: 100\r\n\r\n["
    )
    with socket.create_connection(("127.0.0.1", process.port)) as unfinished:
        unfinished.sendall(head)
        until(lambda: metric(process, "slimq_requests_in_flight") == 1, 30)
        process.process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.process.wait(timeout=1.5)
        process.process.send_signal(signal.SIGINT)
        assert process.process.wait(timeout=20) == 0


def test_workers_end_when_their_supervisor_is_killed(launch: Any) -> None:
    process = launch()
    workers = pids(process)
    process.process.kill()
    process.process.wait()

    until(lambda: all(has_ended(pid) for pid in workers), 30)


def test_a_service_whose_workers_cannot_start_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nread config\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with bind("127.0.0.1", 0) as bound, pytest.raises(SystemExit) as ended:
        Supervisor(Settings(policies=tmp_path, workers=2), [bound]).run()
    assert ended.value.code == 3


def test_a_service_whose_workers_have_no_program_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    with bind("127.0.0.1", 0) as bound, pytest.raises(SystemExit) as ended:
        Supervisor(Settings(policies=tmp_path, workers=2), [bound]).run()
    assert ended.value.code == 3


def test_a_worker_that_cannot_be_started_leaves_the_others_serving(launch: Any) -> None:
    """The supervisor has descriptors for connections then, and none for another worker."""
    process = launch()
    supervisor, killed = process.process.pid, pids(process)[0]
    used = max(int(one.name) for one in Path(f"/proc/{supervisor}/fd").iterdir())
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (used + 1, used + 1))
    os.kill(killed, signal.SIGKILL)
    until(lambda: events(process, "worker not started"), 30)
    for _ in range(20):
        assert act(process) == 200
    assert metric(process, "slimq_workers") == 1


def test_a_temporary_folder_whose_path_is_too_long_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with socket.socket() as unused, pytest.raises(InvalidInputError, match=r"TMPDIR.*shorter"):
        Supervisor(Settings(policies=tmp_path, workers=2), [unused]).run()
    assert not list(long.iterdir())
