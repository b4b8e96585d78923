"""A training run on disk: logs, checkpoints, the best network so far, and early stopping."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import numpy as np
import structlog
from tqdm import tqdm

from slimq.core.atomic import TEMPORARY, append_whole, write_atomically
from slimq.core.errors import TrainingError, describe_system_error
from slimq.core.locks import hold_lock
from slimq.core.manifest import Continuation
from slimq.core.seeds import SELECTION
from slimq.environments.rollout import play_episodes
from slimq.networks.checkpoint import save_network
from slimq.networks.hardware import flushed_denormals
from slimq.networks.torch_policy import TorchPolicy
from slimq_trainer.checkpoint import (
    best_network,
    best_networks,
    latest_checkpoint,
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from slimq_trainer.config import TrainConfig
from slimq_trainer.continuation import begin, is_resumed
from slimq_trainer.events import EventLog
from slimq_trainer.learner import Learner
from slimq_trainer.start import HISTORY, Start

METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"
LOCK = ".lock"
_log = structlog.get_logger()


class Run:
    """Context of a run: on SIGINT or SIGTERM, training stops at the next step with a checkpoint.

    Holds an exclusive lock on the folder, which the system releases when the process dies.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        *,
        start: Start | None = None,
        progress: bool = True,
    ) -> None:
        """Prepares a run.

        Args:
            folder: folder of checkpoints and logs.
            config: the training configuration.
            start: earlier weights or an earlier run to continue from, unless the folder already
                holds a run that began there.
            progress: whether to show a progress bar.
        """
        self.folder, self.config, self.start = folder, config, start
        self.history: tuple[Continuation, ...] = ()
        self._origin: list[str] = []
        self.stopping = False
        self.seconds = 0.0
        self.curve: list[tuple[int, float]] = []
        self.best: tuple[int, float] | None = None
        self._updates_logged = 0
        self._handlers: dict[int, Any] = {}
        self._exit = contextlib.ExitStack()
        self._bar = tqdm(
            total=config.algorithm.steps,
            unit="step",
            disable=not progress,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 30.0,
        )
        self._resumed = self._checkpointed = self._logged = time.monotonic()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._exit.enter_context(hold_lock(self.folder / LOCK))
        except TimeoutError:
            self._bar.close()
            raise TrainingError(
                f"{self.folder}: in use by another training run; choose another folder with --run"
            ) from None
        except OSError:
            self._bar.close()
            raise
        self._exit.enter_context(flushed_denormals())
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._stop)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._exit.close()
        self._bar.close()

    @property
    def best_network(self) -> Path:
        """File of the network with the highest mean return on selection seeds so far."""
        return best_network(self.folder, self.best[0] if self.best else 0)

    @property
    def target_reached(self) -> bool:
        """Whether the best network's return is high enough to stop early."""
        target = self.config.run.target_return
        return target is not None and self.best is not None and self.best[1] >= target

    def complete(self, learner: Learner) -> bool:
        """Whether training is complete."""
        return learner.step >= self.config.algorithm.steps or self.target_reached

    def clear(self) -> None:
        """Removes all files of earlier training runs from the folder.

        Checkpoints go first: as long as one exists, so must the best network that it refers to.
        """
        remove_checkpoints(self.folder)
        self._remove_networks()
        if (self.folder / TENSORBOARD).exists():
            shutil.rmtree(self.folder / TENSORBOARD)
        (self.folder / METRICS).unlink(missing_ok=True)

    def restore(self, learner: Learner) -> None:
        """Restores the learner from the last checkpoint, or else from the start, if there is one.

        Raises:
            TrainingError: the checkpoint belongs to another training run or cannot be read, or a
                file cannot be written.
        """
        path = latest_checkpoint(self.folder)
        begins = self.start is not None and not is_resumed(self.folder, self.start, learner)
        if self.start is not None and begins:
            self._begin(learner, self.start)
        elif path is not None:
            self._take_over(load_checkpoint(path, learner), learner)
            if self.best is not None and not self.best_network.exists():
                raise TrainingError(f"{self.best_network}: is missing; use --fresh to start over")
            _log.info("resumed", checkpoint=str(path), step=learner.step)
        with self._disk_errors():
            self._drop_records_after(learner.step)
            self._events = EventLog(self.folder / TENSORBOARD, learner.step)
        if begins:
            if self.best is None:
                # So that training that only makes good weights worse publishes the initial ones.
                self._select(learner)
            self.save(learner)  # before the first step, so that any interruption resumes here
        self._bar.update(learner.step - self._bar.n)
        self._bar.unpause()
        self._resumed = self._checkpointed = self._logged = time.monotonic()

    def _begin(self, learner: Learner, start: Start) -> None:
        progress, continuation = begin(learner, start)
        if progress is not None:
            self._take_over(progress, learner)
            if self.best is not None and not self.best_network.exists():
                with self._disk_errors():
                    write_atomically(self.best_network, start.network)
        self.history = (*start.history, continuation)
        self._origin = list(start.digests)

    def _take_over(self, progress: dict[str, Any], learner: Learner) -> None:
        self.seconds = progress["seconds"]
        self.curve = [(int(step), float(value)) for step, value in progress["curve"]]
        self.best = progress["best"]
        self.history = HISTORY.validate_python(progress["history"])
        self._origin = progress["origin"]
        self._updates_logged = learner.updates

    def after_step(self, learner: Learner) -> None:
        """Logs, evaluates and saves a checkpoint if due at this agent step."""
        settings = self.config.run
        self._bar.update(learner.environment.count)
        if _crossed(learner, settings.log_every):
            self._report(learner)
        if _crossed(learner, settings.evaluate_every):
            self._select(learner)
        if time.monotonic() - self._checkpointed > 60 * settings.checkpoint_minutes:
            self.save(learner)

    def save(self, learner: Learner) -> None:
        """Writes a checkpoint.

        Raises:
            TrainingError: the loss or a weight is not finite, or the disk is full; the last
                checkpoint stays.
        """
        learner.check_finite()
        self.seconds, self._resumed = self._elapsed(), time.monotonic()
        progress = {
            "seconds": self.seconds,
            "curve": self.curve,
            "best": self.best,
            "history": HISTORY.dump_python(self.history, mode="json"),
            "origin": self._origin,
        }
        with self._disk_errors():
            save_checkpoint(self.folder, learner, progress)
            self._remove_networks(keep=self.best_network)
        self._checkpointed = time.monotonic()

    def finish(self, learner: Learner) -> None:
        """Saves a final checkpoint, after a last evaluation if training is complete."""
        last_evaluated = self.curve[-1][0] if self.curve else -1
        if self.complete(learner) and last_evaluated != learner.step:
            self._select(learner)
        self.save(learner)

    def _stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.stopping = True

    def _report(self, learner: Learner) -> None:
        learner.check_finite()
        now, step = time.monotonic(), learner.step
        recent = list(learner.recent_returns)[-20:]
        values = {
            "train/loss": float(learner.losses) / max(1, learner.updates - self._updates_logged),
            "train/steps_per_second": self.config.run.log_every / (now - self._logged),
        }
        if recent:
            values["train/return"] = float(np.mean(recent))
            self._bar.set_postfix({"return": f"{values['train/return']:.1f}"}, refresh=False)
        learner.losses.zero_()
        self._updates_logged, self._logged = learner.updates, now
        record = {"step": step, "updates": learner.updates, "seconds": self._elapsed()} | values
        with self._disk_errors():
            self._events.add(values, step)
            append_whole(self.folder / METRICS, (json.dumps(record) + "\n").encode())

    def _select(self, learner: Learner) -> None:
        seeds = SELECTION.seeds(self.config.run.evaluate_episodes)
        policy = TorchPolicy(learner.policy, learner.device)
        episodes = play_episodes(
            self.config.environment,
            policy,
            seeds,
            environments=min(len(seeds), 16),
            threads=self.config.run.threads,
        )
        mean = float(np.mean([episode.return_ for episode in episodes]))
        self.curve.append((learner.step, mean))
        with self._disk_errors():
            self._events.add({"selection/return": mean}, learner.step)
        _log.info("selection", step=learner.step, updates=learner.updates, mean_return=mean)
        if self.best is None or mean >= self.best[1]:
            self.best = (learner.step, mean)
            with self._disk_errors():
                write_atomically(self.best_network, save_network(learner.policy))

    def _remove_networks(self, keep: Path | None = None) -> None:
        """Removes best networks except `keep`, and temporary files of killed processes."""
        for path in [*best_networks(self.folder), *self.folder.glob(f"{TEMPORARY}*")]:
            if path != keep:
                path.unlink()

    def _drop_records_after(self, step: int) -> None:
        """Drops records after `step`, the last checkpoint's; those steps will be logged again."""
        path = self.folder / METRICS
        if not path.exists():
            return
        kept = 0
        for line in path.read_bytes().splitlines(keepends=True):
            if _logged_step(line) > step:
                break
            kept += len(line)
        os.truncate(path, kept)  # needs no space, unlike writing the file again

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Converts system errors on writing to one line that names the checkpoint left."""
        try:
            yield
        except OSError as error:
            last = latest_checkpoint(self.folder)
            rest = "there is no checkpoint yet" if last is None else f"{last.name} is kept"
            raise TrainingError(f"{describe_system_error(error)}; {rest}") from error

    def _elapsed(self) -> float:
        return self.seconds + time.monotonic() - self._resumed


def _crossed(learner: Learner, every: int) -> bool:
    """Whether the last agent steps crossed a multiple of `every`."""
    before = learner.step - learner.environment.count
    return learner.step // every > before // every


def _logged_step(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def versions() -> dict[str, str]:
    """Versions of the libraries that affect the result of training."""
    names = ("torch", "gymnasium", "ale-py", "numpy")
    return {name: importlib.metadata.version(name) for name in names}
