from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from slimq.core.atomic import TEMPORARY
from slimq_trainer.checkpoint import latest_checkpoint
from slimq_trainer.config import TrainConfig
from slimq_trainer.dqn import make_learner, train
from slimq_trainer.run import Run


@pytest.fixture
def trained(tmp_path: Path, small_config: TrainConfig) -> Path:
    with Run(tmp_path, small_config, progress=False) as run:
        train(small_config, run)
    return tmp_path


def test_a_cleared_folder_holds_only_the_lock_and_what_is_not_of_a_run(
    trained: Path, small_config: TrainConfig
) -> None:
    (trained / "checkpoint-000000000001-1.unfinished").mkdir()
    (trained / f"{TEMPORARY}1-a").write_bytes(b"half")
    (trained / "notes.txt").write_text("mine")
    with Run(trained, small_config, progress=False) as run:
        run.clear()
        assert sorted(path.name for path in trained.iterdir()) == [".lock", "notes.txt"]
        run.clear()


def test_an_interrupted_clear_leaves_no_half_checkpoint_that_is_taken_for_a_whole_one(
    trained: Path, small_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(path: Path, *_: Any) -> None:
        (path / "replay.zst").unlink()
        raise KeyboardInterrupt

    with Run(trained, small_config, progress=False) as run:
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", half)
            with pytest.raises(KeyboardInterrupt):
                run.clear()
        assert len(list(trained.glob("checkpoint-*"))) == 1
        assert latest_checkpoint(trained) is None
        learner = make_learner(small_config)
        run.restore(learner)
        assert learner.step == 0
        run.finish(learner)
    assert len(list(trained.glob("checkpoint-*"))) == 1


def test_a_save_removes_what_a_killed_process_had_not_finished_writing(
    trained: Path, small_config: TrainConfig
) -> None:
    (trained / f"{TEMPORARY}1-a").write_bytes(b"half")
    with Run(trained, small_config, progress=False) as run:
        train(small_config, run)
    assert list(trained.glob(f"{TEMPORARY}*")) == []
    assert list(trained.glob("best-*")) == [run.best_network]
