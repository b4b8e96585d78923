"""Workers whose temporary folder is full, read-only, or gone: they serve, and say what is lost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from builders import build_repository
from mounts import mounted
from slimq.core.errors import InvalidInputError
from slimq_service.server.supervision.worker_folder import MAX_PATH_BYTES, WorkerFolder
from waiting import until

ZEROS = {"observations": [[0, 0, 0, 0]]}
READ_ONLY = """
for folder in /tmp /var/tmp; do
    mount --bind $folder $folder && mount -o remount,bind,ro $folder || exit 9
done
cd /proc && exec "$@"
"""
"""Leaves no folder in which a temporary one can be created."""


def events(process: Any, event: str) -> list[Any]:
    lines = [json.loads(line) for line in process.log.read_text().splitlines() if line[:1] == "{"]
    return [line for line in lines if line.get("event") == event]


def wait_for_workers(process: Any) -> None:
    until(lambda: len(events(process, "worker ready")) == 2, 60)


def metric(process: Any, name: str) -> float | None:
    answer = httpx.get(process.url + "/metrics", timeout=30)
    assert answer.status_code == 200
    rows = [row for row in answer.text.splitlines() if row.startswith(name + " ")]
    return float(rows[0].rpartition(" ")[2]) if rows else None


def check_serves(process: Any, policy: str = "tiny") -> None:
    """Each of many connections gets an answer, whichever worker accepts it."""
    for _ in range(10):
        url = f"{process.url}/v1/policies/{policy}/act"
        answer = httpx.post(url, json=ZEROS, timeout=30)
        assert answer.status_code == 200, answer.text
        assert httpx.get(process.url + "/readyz", timeout=30).status_code == 200
    assert "Traceback" not in process.log.read_text()


def check_spreads(process: Any) -> None:
    """Of eight kept connections, about four are with the worker that answers the first.

    Each worker exposes its own series alone here, so a request counts on those connections only.
    """
    line = 'slimq_requests_total{policy="tiny",variant="fp32"} '
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(timeout=30)) for _ in range(8)]

        def counts() -> list[str]:
            texts = [client.get(process.url + "/metrics").text for client in clients]
            return [next(row for row in t.splitlines() if row.startswith(line)) for t in texts]

        before = counts()
        answer = clients[0].post(f"{process.url}/v1/policies/tiny/act", json=ZEROS)
        assert answer.status_code == 200
        changed = sum(old != new for old, new in zip(before, counts(), strict=True))
        assert 3 <= changed <= 5


def fill_up(folder: Path) -> Path:
    """Takes all space that the file system has; returns the file that does."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return filler


@pytest.fixture
def small() -> Iterator[Any]:
    """`small(size)`: mounts a file system of so many bytes, where the path to it is short."""
    with contextlib.ExitStack() as stack:

        def make(size: str) -> Path:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="small-")))
            options = ("-t", "tmpfs", "-o", f"size={size}", "none")
            return stack.enter_context(mounted(*options, at=folder))

        yield make


def test_without_any_temporary_folder_workers_serve_and_are_replaced_with_metrics_of_their_own(
    tiny_repository: Path, tmp_path: Path, process_class: Any
) -> None:
    before = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh"]
    trial = subprocess.run([*before, "true"], capture_output=True, check=False)
    if trial.returncode:
        pytest.skip("mounting is refused")
    variables = {"SLIMQ_WORKERS": "2", "SLIMQ_WORKER_STALL_SECONDS": "5"}
    process = process_class(tiny_repository, tmp_path / "log", before, **variables)
    try:
        wait_for_workers(process)
        check_serves(process)
        event = "cannot create a temporary folder: workers do not share metrics, loads and unloads"
        assert len(events(process, event)) == 1
        unshared = metric(process, "slimq_unshared_series")
        assert unshared is not None
        assert unshared > 100
        check_spreads(process)
        killed = events(process, "worker ready")[0]["pid"]
        os.kill(killed, signal.SIGKILL)
        until(lambda: len(events(process, "worker ready")) == 3, 60)
        assert metric(process, "slimq_worker_restarts_total") == 1
        assert metric(process, "slimq_workers") == 2
        check_spreads(process)
        os.kill(events(process, "worker ready")[2]["pid"], signal.SIGSTOP)
        until(lambda: events(process, "worker stalled"), 30)
        check_serves(process)
        until(lambda: len(events(process, "worker ready")) == 4, 60)
        assert metric(process, "slimq_worker_stalls_total") == 1
        load = process.url + "/v2/repository/models/tiny/load"
        assert httpx.post(load, timeout=30).status_code == 200
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(30) == 0
    finally:
        process.close()


def test_a_folder_that_is_too_small_from_the_start_costs_series_only(
    tiny_repository: Path, tmp_path: Path, process_class: Any, small: Any
) -> None:
    folder = small("32k")
    variables = {"SLIMQ_WORKERS": "2", "TMPDIR": str(folder)}
    process = process_class(tiny_repository, tmp_path / "log", **variables)
    try:
        wait_for_workers(process)
        assert list(folder.glob("slimq-*"))
        check_serves(process)
        event = "metrics are not shared with the other workers"
        assert {line["problem"] for line in events(process, event)} == {"No space left on device"}
        until(lambda: (metric(process, "slimq_unshared_series") or 0) > 100, 30)
    finally:
        process.process.terminate()
        process.process.wait(30)
        process.close()
    assert list(folder.glob("slimq-*")) == []


def test_a_folder_that_fills_up_costs_new_series_and_no_request(
    tmp_path: Path, process_class: Any, small: Any, repositories: Any
) -> None:
    folder = small("1m")
    variables = {"SLIMQ_WORKERS": "2", "TMPDIR": str(folder), "SLIMQ_WATCH_SECONDS": "0.1"}
    process = process_class(repositories.root, tmp_path / "log", **variables)
    try:
        wait_for_workers(process)
        check_serves(process)
        assert metric(process, "slimq_unshared_series") == 0
        assert metric(process, "slimq_workers") == 2
        filler = fill_up(folder)
        for number in range(3):
            repositories.add_policy(f"late-{number}")
        until(lambda: (metric(process, "slimq_unshared_series") or 0) > 0, 30)
        check_serves(process)
        for number in range(3):
            check_serves(process, f"late-{number}")
        line = 'slimq_requests_total{policy="tiny",variant="fp32"}'
        assert metric(process, line) == 20, "series from before are those of all workers"
        killed = events(process, "worker ready")[0]["pid"]
        os.kill(killed, signal.SIGKILL)
        until(lambda: len(events(process, "worker ready")) == 3, 60)
        check_serves(process)
        assert metric(process, "slimq_worker_restarts_total") == 1, "which needs no folder"
        assert metric(process, "slimq_workers") == 2
        filler.unlink()
        until(lambda: metric(process, "slimq_ready") == 2, 30)
    finally:
        process.process.terminate()
        process.process.wait(30)
        process.close()


def test_a_folder_that_is_removed_costs_no_request(
    tmp_path: Path, process_class: Any, repositories: Any
) -> None:
    """As by a service that cleans /tmp."""
    (tmp_path / "t").mkdir()
    variables = {"SLIMQ_WORKERS": "2", "TMPDIR": str(tmp_path / "t"), "SLIMQ_WATCH_SECONDS": "0.1"}
    process = process_class(repositories.root, tmp_path / "log", **variables)
    try:
        wait_for_workers(process)
        check_serves(process)
        (folder,) = (tmp_path / "t").glob("slimq-*")
        shutil.rmtree(folder)
        repositories.add_policy("late")
        until(lambda: (metric(process, "slimq_unshared_series") or 0) > 0, 30)
        check_serves(process)
        check_serves(process, "late")
        load = process.url + "/v2/repository/models/tiny/load"
        assert httpx.post(load, timeout=30).status_code == 200
    finally:
        process.process.terminate()
        process.process.wait(30)
        process.close()


def test_a_temporary_folder_whose_path_is_too_long_for_sockets_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * MAX_PATH_BYTES)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(InvalidInputError, match=r"TMPDIR: .* bytes shorter"):
        WorkerFolder.create()
    assert list(deep.iterdir()) == []


def test_a_service_of_one_process_needs_no_temporary_folder(
    tmp_path: Path, process_class: Any
) -> None:
    root = build_repository(tmp_path / "policies")
    process = process_class(root, tmp_path / "log", TMPDIR=str(tmp_path / "nowhere"))
    try:
        check_serves(process)
        assert metric(process, "slimq_unshared_series") == 0
    finally:
        process.close()
