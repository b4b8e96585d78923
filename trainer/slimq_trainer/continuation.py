"""Continues earlier training: with its whole state if that fits, else with its weights alone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import structlog

from slimq.core.errors import InvalidInputError, TrainingError
from slimq.core.manifest import Continuation
from slimq.networks.checkpoint import load_network, save_network
from slimq_trainer.changes import Changes, comparable, differences, fixed_keys
from slimq_trainer.checkpoint import latest_checkpoint, load_checkpoint, read_state
from slimq_trainer.learner import Learner
from slimq_trainer.start import Start, require_same_network

_log = structlog.get_logger(__name__)


def is_resumed(folder: Path, start: Start, learner: Learner) -> bool:
    """Whether a run folder already holds the training run that began at `start`.

    Raises:
        TrainingError: it holds another training run, which starting over would remove.
    """
    path = latest_checkpoint(folder)
    if path is None:
        return False
    state = read_state(path)
    changes = differences(state["config"], comparable(learner.config, learner.precision))
    if start.checkpoint is not None and start.folder.resolve() == folder.resolve():
        if fixed := fixed_keys(changes):
            raise TrainingError(
                f"{folder}: only its weights can be used with other values of {', '.join(fixed)}; "
                "choose another folder for the new training run with --run"
            )
        return not changes
    others = "use --fresh to replace it, or another folder with --run"
    if changes:
        listing = ", ".join(changes)
        raise TrainingError(
            f"{folder}: holds a training run with other values of {listing}; continue from it with "
            f"--from {folder}, {others}"
        )
    if not set(start.digests) & set(state["progress"]["origin"]):
        raise TrainingError(
            f"{folder}: holds a training run that did not begin at {start.path}; {others}"
        )
    return True


def begin(learner: Learner, start: Start) -> tuple[dict[str, Any] | None, Continuation]:
    """Loads the state of a start into a new learner, or else only its weights.

    Returns:
        The progress saved with the state, None if only the weights were loaded; and the record of
        the continuation.

    Raises:
        InvalidInputError: the networks differ, or the earlier training already took all steps.
        TrainingError: the checkpoint cannot be read.
    """
    require_same_network(start, learner.online.spec)
    changes = start.changes(learner.config, learner.precision)
    fixed = fixed_keys(changes)
    if start.checkpoint is None or fixed:
        _take_weights(learner, start)
        # Without a checkpoint there are only weights, so no reason is logged.
        reason = {"because_of": fixed} if start.checkpoint is not None else {}
        _log.info("started with the weights", start=str(start.path), found=start.found, **reason)
        digest = hashlib.sha256(start.network).hexdigest()
        return None, _record(digest, start.step, changes)
    progress = load_checkpoint(start.checkpoint, learner, goes_on=True)
    steps = learner.config.algorithm.steps
    if learner.step >= steps:
        expected = f"more than the {learner.step:,} steps that {start.path} has taken"
        raise InvalidInputError("algorithm.steps", expected, f"{steps:,}")
    _log.info(
        "continued with the whole state",
        start=str(start.path),
        found=start.found,
        step=learner.step,
        changed=[*changes],
    )
    digest = hashlib.sha256(save_network(learner.policy)).hexdigest()
    return progress, _record(digest, learner.step, changes)


def _take_weights(learner: Learner, start: Start) -> None:
    weights = load_network(start.network, str(start.path)).state_dict()
    for network in (learner.online, learner.target, learner.average):
        if network is not None:
            network.load_state_dict(weights)


def _record(digest: str, step: int, changes: Changes) -> Continuation:
    return Continuation(from_sha256=digest, from_step=step, changes=changes)
