"""A training run on disk: logs, checkpoints, the best network so far, and early stopping."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import shutil
import signal
import sys
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import numpy as np
import structlog
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from slimq.core.atomic import TEMPORARY, write_atomically
from slimq.core.errors import TrainingError
from slimq.core.locks import hold_lock
from slimq.core.seeds import SELECTION
from slimq.environments.rollout import play_episodes
from slimq.networks.checkpoint import save_network
from slimq.networks.hardware import flushed_denormals
from slimq.networks.torch_policy import TorchPolicy
from slimq_trainer.checkpoint import (
    latest_checkpoint,
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from slimq_trainer.config import TrainConfig
from slimq_trainer.learner import Learner

METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"
LOCK = ".lock"
_BEST = "best-"
_log = structlog.get_logger()


class Run:
    """Context of a run: on SIGINT or SIGTERM, training stops at the next step with a checkpoint.

    Holds an exclusive lock on the folder, which the system releases when the process dies.
    """

    def __init__(self, folder: Path, config: TrainConfig, *, progress: bool = True) -> None:
        self.folder, self.config = folder, config
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
                f"{self.folder}: in use by another training; choose another folder with --run"
            ) from None
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
        """The network with the highest return on selection seeds so far.

        Its name contains the agent step, so that a checkpoint always finds its own best network.
        """
        step = self.best[0] if self.best else 0
        return self.folder / f"{_BEST}{step:012d}.safetensors"

    @property
    def target_reached(self) -> bool:
        """Whether the best network is good enough to stop the training early."""
        target = self.config.run.target_return
        return target is not None and self.best is not None and self.best[1] >= target

    def complete(self, learner: Learner) -> bool:
        """Whether training is complete."""
        return learner.step >= self.config.algorithm.steps or self.target_reached

    def clear(self) -> None:
        """Removes what earlier trainings left in the folder.

        Checkpoints go first: as long as one exists, so must the best network that it refers to.
        """
        remove_checkpoints(self.folder)
        self._remove_networks()
        if (self.folder / TENSORBOARD).exists():
            shutil.rmtree(self.folder / TENSORBOARD)
        (self.folder / METRICS).unlink(missing_ok=True)

    def restore(self, learner: Learner) -> None:
        """Restores the learner from the last checkpoint, if there is one."""
        path = latest_checkpoint(self.folder)
        if path is not None:
            progress = load_checkpoint(path, learner)
            self.seconds = progress["seconds"]
            self.curve = [(int(step), float(value)) for step, value in progress["curve"]]
            self.best = progress["best"]
            self._updates_logged = learner.updates
            if self.best is not None and not self.best_network.exists():
                raise TrainingError(f"{self.best_network}: is missing; use --fresh to start over")
            self._drop_records_after(learner.step)
            _log.info("resumed", checkpoint=str(path), step=learner.step)
        self._writer = self._exit.enter_context(
            SummaryWriter(str(self.folder / TENSORBOARD), purge_step=learner.step)
        )
        self._bar.update(learner.step - self._bar.n)
        self._bar.unpause()
        self._resumed = self._checkpointed = self._logged = time.monotonic()

    def after_step(self, learner: Learner) -> None:
        """Logs, evaluates and checkpoints as due at this agent step."""
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
            TrainingError: the loss or a weight is not finite; the last checkpoint stays.
        """
        learner.check_finite()
        self.seconds, self._resumed = self._elapsed(), time.monotonic()
        progress = {"seconds": self.seconds, "curve": self.curve, "best": self.best}
        save_checkpoint(self.folder, learner, progress)
        self._remove_networks(keep=self.best_network)
        self._checkpointed = time.monotonic()

    def finish(self, learner: Learner) -> None:
        """Saves a final checkpoint; a complete training is evaluated first if still due."""
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
            "train/return": float(np.mean(recent)) if recent else float("nan"),
            "train/steps_per_second": self.config.run.log_every / (now - self._logged),
        }
        learner.losses.zero_()
        self._updates_logged, self._logged = learner.updates, now
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            record = {"step": step, "updates": learner.updates, "seconds": self._elapsed()} | values
            file.write(json.dumps(record) + "\n")
        self._bar.set_postfix({"return": f"{values['train/return']:.1f}"}, refresh=False)

    def _select(self, learner: Learner) -> None:
        seeds = SELECTION.seeds(self.config.run.evaluate_episodes)
        policy = TorchPolicy(learner.policy, learner.device)
        episodes = play_episodes(
            self.config.environment, policy, seeds, environments=min(len(seeds), 16)
        )
        mean = float(np.mean([episode.return_ for episode in episodes]))
        self.curve.append((learner.step, mean))
        self._writer.add_scalar("selection/return", mean, learner.step)
        _log.info("selection", step=learner.step, updates=learner.updates, mean_return=mean)
        if self.best is None or mean >= self.best[1]:
            self.best = (learner.step, mean)
            write_atomically(self.best_network, save_network(learner.policy))

    def _remove_networks(self, keep: Path | None = None) -> None:
        """Removes best networks except `keep`, and temporary files of a killed process."""
        for pattern in (f"{_BEST}*", f"{TEMPORARY}*"):
            for path in self.folder.glob(pattern):
                if path != keep:
                    path.unlink()

    def _drop_records_after(self, step: int) -> None:
        """Drops records beyond the last checkpoint: those steps will be logged again."""
        path = self.folder / METRICS
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if _logged_step(line) <= step]
            path.write_text("".join(kept), encoding="utf-8")

    def _elapsed(self) -> float:
        return self.seconds + time.monotonic() - self._resumed


def _crossed(learner: Learner, every: int) -> bool:
    """Whether the last agent steps crossed a multiple of `every`."""
    before = learner.step - learner.environment.count
    return learner.step // every > before // every


def _logged_step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def versions() -> dict[str, str]:
    """Versions of the libraries that affect a training's result."""
    names = ("torch", "gymnasium", "ale-py", "numpy")
    return {name: importlib.metadata.version(name) for name in names}
