"""A full disk ends a training in one line and leaves the disk as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from full_disk import contents, fill, small_disk
from slimq.core.errors import TrainingError
from slimq_trainer.checkpoint import latest_checkpoint
from slimq_trainer.config import TrainConfig
from slimq_trainer.dqn import train
from slimq_trainer.learner import Learner
from slimq_trainer.run import METRICS, TENSORBOARD, Run


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "1m") as place:
        yield place


def train_until_full(
    disk: Path, config: TrainConfig, then: Callable[[Run, Learner], None]
) -> tuple[dict[str, bytes], str]:
    """Fills the disk at a step, and does something; the files before it, and the error."""
    before: dict[str, bytes] = {}
    with Run(disk / "run", config, progress=False) as run:
        follow = run.after_step

        def fill_there(learner: Learner) -> None:
            follow(learner)
            if learner.step == 450:
                run.save(learner)
            if learner.step == 501:
                fill(disk)
                before.update(contents(disk))
                then(run, learner)

        run.after_step = fill_there  # type: ignore[method-assign]
        with pytest.raises(TrainingError) as error:
            train(config, run)
    return before, str(error.value)


@pytest.mark.parametrize("name", ["checkpoint", "best"])
def test_what_cannot_be_written_is_named_and_the_last_checkpoint_stays(
    disk: Path, small_config: TrainConfig, name: str
) -> None:
    written = {"checkpoint": Run.save, "best": Run._select}
    before, problem = train_until_full(disk, small_config, written[name])
    last = latest_checkpoint(disk / "run")
    assert last is not None
    assert problem.startswith(f"{disk}/run/{name}-000000000501")
    assert problem.endswith(f": No space left on device; {last.name} is kept")
    assert "\n" not in problem
    if name == "best":  # the figure itself still found space in its file
        before = {path: content for path, content in before.items() if TENSORBOARD not in path}
    now = contents(disk)
    assert {path: content for path, content in now.items() if path in before} == before
    assert now.keys() - before.keys() <= {path for path in now if TENSORBOARD in path}
    (disk / "filler").unlink()
    with Run(disk / "run", small_config, progress=False) as run:
        assert train(small_config, run).step == small_config.algorithm.steps


def test_logs_are_cut_back_to_whole_entries(disk: Path, small_config: TrainConfig) -> None:
    folder = disk / "run"

    def log_on(run: Run, learner: Learner) -> None:
        while True:
            run._report(learner)

    _, problem = train_until_full(disk, small_config, log_on)
    assert problem.startswith((f"{folder}/{METRICS}", f"{folder}/{TENSORBOARD}/events."))
    assert (folder / METRICS).read_bytes().endswith(b"}\n")
    (disk / "filler").unlink()
    (path,) = (folder / TENSORBOARD).iterdir()
    assert len(read_events(path)) > 2


def read_events(path: Path) -> list[object]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return list(EventFileLoader(str(path)).Load())


def test_a_disk_that_is_full_from_the_start_has_no_checkpoint_yet(
    disk: Path, small_config: TrainConfig
) -> None:
    fill(disk)
    with (
        Run(disk / "run", small_config, progress=False) as run,
        pytest.raises(TrainingError, match=r"No space left on device; there is no checkpoint yet$"),
    ):
        train(small_config, run)
    assert contents(disk).keys() == {"run", "run/.lock", f"run/{TENSORBOARD}"}
