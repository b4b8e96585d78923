from __future__ import annotations

import os
from pathlib import Path

from slimq_trainer.events import EventLog


def test_an_event_log_is_what_tensorboard_reads(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = EventLog(tmp_path, 0)
    first.add({"train/loss": 0.5, "train/return": 9.0}, 100)
    first.add({"train/loss": 0.25}, 200)
    os.utime(first.path, (0, 0))
    second = EventLog(tmp_path, 150)
    second.add({"train/loss": 0.125}, 200)
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    losses = [(event.step, event.value) for event in found.Scalars("train/loss")]
    assert losses == [(100, 0.5), (200, 0.125)]
    assert [event.value for event in found.Scalars("train/return")] == [9.0]


def test_sessions_that_begin_in_one_second_are_read_in_their_order(tmp_path: Path) -> None:
    paths = [EventLog(tmp_path, step).path for step in range(20)]
    assert sorted(paths) == paths
