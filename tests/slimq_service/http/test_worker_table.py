from __future__ import annotations

from pathlib import Path

import pytest

from slimq_service.http.worker_table import State, Worker, WorkerTable, read_workers


def test_what_one_process_writes_the_others_read(tmp_path: Path) -> None:
    supervisor = WorkerTable(tmp_path, workers=3)
    worker, reader = WorkerTable(tmp_path), WorkerTable(tmp_path)
    assert reader.size == 3
    supervisor.set_state(1, State.STARTING, 4711)
    supervisor.set_state(2, State.ANSWERING, 4712)
    worker.beat(1)
    worker.beat(1)
    worker.count_connections(1, taken=5, is_open=2)
    worker.leave(2)
    assert list(reader.alive()) == [
        Worker(1, 4711, State.STARTING),
        Worker(2, 4712, State.ANSWERING),
    ]
    assert (reader.beats(1), reader.beats(2)) == (2, 0)
    assert (reader.taken(1), reader.closed(1)) == (5, 3)
    assert [reader.is_leaving(index) for index in range(3)] == [False, False, True]
    assert read_workers(tmp_path) == list(reader.alive())


def test_who_takes_a_place_begins_with_nothing(tmp_path: Path) -> None:
    table = WorkerTable(tmp_path, workers=2)
    table.set_state(0, State.ANSWERING, 1)
    table.count_connections(0, taken=9, is_open=9)
    table.leave(0)
    table.set_state(0, State.STALLED, 1)
    assert (table.taken(0), table.is_leaving(0)) == (9, True)
    table.set_state(0, State.ABSENT, 0)
    assert list(table.alive()) == []
    table.set_state(0, State.STARTING, 2)
    assert (table.taken(0), table.is_leaving(0), table.beats(0)) == (0, False, 0)


def test_what_is_known_of_the_whole_service(tmp_path: Path) -> None:
    table = WorkerTable(tmp_path, workers=2)
    table.count_restart(stalled=False)
    table.count_restart(stalled=True)
    table.set_ended_seconds(1.5)
    other = WorkerTable(tmp_path)
    assert (other.restarts, other.stalls, other.ended_seconds) == (2, 1, 1.5)


def test_where_there_is_no_table_there_are_no_workers(tmp_path: Path) -> None:
    assert read_workers(tmp_path) == []
    with pytest.raises(OSError, match="workers"):
        WorkerTable(tmp_path)
