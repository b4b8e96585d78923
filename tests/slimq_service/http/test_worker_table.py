from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slimq_service.http.worker_table import State, Worker, WorkerTable


def test_what_one_process_writes_the_others_read() -> None:
    supervisor = WorkerTable.create(3)
    worker, reader = WorkerTable(supervisor.descriptor), WorkerTable(supervisor.descriptor)
    assert reader.size == 3
    supervisor.set_state(1, State.STARTING, 4711)
    supervisor.set_state(2, State.ANSWERING, 4712)
    worker.heartbeat(1)
    worker.heartbeat(1)
    worker.count_connections(1, accepted=5, is_open=2)
    worker.drain(2)
    assert list(reader.alive()) == [
        Worker(1, 4711, State.STARTING),
        Worker(2, 4712, State.ANSWERING),
    ]
    assert (reader.heartbeats(1), reader.heartbeats(2)) == (2, 0)
    assert (reader.accepted(1), reader.closed(1)) == (5, 3)
    assert [reader.is_draining(index) for index in range(3)] == [False, False, True]


def test_who_takes_a_place_begins_with_nothing() -> None:
    table = WorkerTable.create(2)
    table.set_state(0, State.ANSWERING, 1)
    table.count_connections(0, accepted=9, is_open=9)
    table.drain(0)
    table.set_state(0, State.STALLED, 1)
    assert (table.accepted(0), table.is_draining(0)) == (9, True)
    table.set_state(0, State.ABSENT, 0)
    assert list(table.alive()) == []
    table.set_state(0, State.STARTING, 2)
    assert (table.accepted(0), table.is_draining(0), table.heartbeats(0)) == (0, False, 0)


def test_what_is_known_of_the_whole_service() -> None:
    table = WorkerTable.create(2)
    table.count_restart(stalled=False)
    table.count_restart(stalled=True)
    table.set_exited_seconds(1.5)
    other = WorkerTable(table.descriptor)
    assert (other.restarts, other.stalls, other.exited_seconds) == (2, 1, 1.5)


def test_another_process_shares_the_table_by_its_descriptor() -> None:
    table = WorkerTable.create(2)
    program = (
        "import sys; from slimq_service.http.worker_table import WorkerTable; "
        "WorkerTable(int(sys.argv[1])).heartbeat(1)"
    )
    command = [sys.executable, "-c", program, str(table.descriptor)]
    subprocess.run(command, check=True, pass_fds=[table.descriptor], timeout=60)
    assert (table.heartbeats(0), table.heartbeats(1)) == (0, 1)


def test_a_system_without_memory_files_has_a_file_without_a_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    table = WorkerTable.create(2)
    WorkerTable(table.descriptor).heartbeat(1)
    assert table.heartbeats(1) == 1
    assert list(tmp_path.iterdir()) == []
    table.close()
