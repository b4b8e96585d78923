"""Starting points of training: another run's folder, a network file, or a policy.

A run folder whose configuration differs only in keys of `CHANGEABLE` is continued from its last
checkpoint, with replay buffer, optimizer and step count. All others provide only the weights.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from slimq.core.errors import InvalidInputError, TrainingError
from slimq.core.manifest import Continuation
from slimq.core.repository import POLICY_FILE, Repository
from slimq.networks.checkpoint import load_network
from slimq.networks.layers import DenseLayer
from slimq.networks.specification import QNetworkSpec
from slimq_trainer.changes import Changes, comparable, differences
from slimq_trainer.checkpoint import (
    best_network,
    best_networks,
    latest_checkpoint,
    network_of,
    read_state,
)
from slimq_trainer.config import TrainConfig

OPTION = "--from"
EXPECTED = "a run folder, a .safetensors network of slimq, or a policy of the repository"
HISTORY = TypeAdapter(tuple[Continuation, ...])
_STEP_OF_BEST = re.compile(r"best-(\d+)\.safetensors")


@dataclass(frozen=True)
class Start:
    """Earlier weights, and what is known about their training.

    Attributes:
        path: the path as given by the user.
        found: description of what the path holds.
        folder: the folder that contains it.
        network: the weights, as a safetensors file.
        step: agent steps taken to reach the weights; 0 if unknown.
        config: the comparable configuration of their training; None if unknown.
        history: earlier continuations of their training.
        checkpoint: the complete state; None if there are only weights.
        digests: SHA-256 of the files that identify it, to recognize it after an interruption.
    """

    path: Path
    found: str
    folder: Path
    network: bytes
    step: int
    config: dict[str, Any] | None = None
    history: tuple[Continuation, ...] = ()
    checkpoint: Path | None = None
    digests: tuple[str, ...] = ()

    @property
    def spec(self) -> QNetworkSpec:
        """The specification of the network."""
        return load_network(self.network, str(self.path)).spec

    def changes(self, config: TrainConfig, precision: str) -> Changes:
        """The changes of a new configuration; none if the earlier one is unknown."""
        if self.config is None:
            return {}
        now = comparable(config, precision)
        return differences({"precision": precision} | self.config, now)


def find_start(path: Path) -> Start:
    """Recognizes the starting point at a path.

    Raises:
        InvalidInputError: training cannot start from it.
        RepositoryError: a policy or a network file is invalid.
        TrainingError: a checkpoint cannot be read.
    """
    if path.is_dir():
        if (path / POLICY_FILE).exists():
            return _from_policy(path, path)
        if latest_checkpoint(path) or best_networks(path):
            return _from_run(path)
        raise InvalidInputError(OPTION, EXPECTED, f"{path}, a folder with none of these")
    if not path.exists():
        raise InvalidInputError(OPTION, EXPECTED, f"{path}, which does not exist")
    if path.name == POLICY_FILE:
        return _from_policy(path, path.parent)
    if path.suffix != ".safetensors":
        hint = "; slimq import makes a policy of other files" if path.is_file() else ""
        raise InvalidInputError(OPTION, EXPECTED, str(path), hint)
    return _from_file(path)


def require_same_network(start: Start, spec: QNetworkSpec) -> None:
    """Checks that weights fit the network to be trained.

    Raises:
        InvalidInputError: they do not; the error names a field that differs.
    """
    before, now = start.spec.model_dump(mode="json"), spec.model_dump(mode="json")
    changes = differences(_normalized(before), _normalized(now))
    if not changes:
        return
    # Differences in the environment are named first, since they explain those in the network.
    key = min(changes, key=lambda key: not key.startswith(("observation", "actions")))
    old, new = changes[key]
    field = f"network.{key.removeprefix('body.')}"
    if key.startswith(("observation", "actions")):
        field = f"environment ({key})"
    raise InvalidInputError(field, f"{old}, as in the network of {start.path}", str(new))


def _normalized(spec: Any) -> Any:
    """A specification with dense layers in their short form where that is equivalent."""
    if isinstance(spec, list):
        return [_normalized(value) for value in spec]
    if not isinstance(spec, dict):
        return spec
    normal = {key: _normalized(value) for key, value in spec.items()}
    if "width" in normal and normal == DenseLayer(width=normal["width"]).model_dump(mode="json"):
        return normal["width"]
    return normal


def _from_run(folder: Path) -> Start:
    path = latest_checkpoint(folder)
    if path is None:
        return _from_file(best_networks(folder)[-1])
    state = read_state(path, starts_over=False)
    progress = state["progress"]
    step, found = state["step"], f"a run folder with a checkpoint at agent step {state['step']:,}"
    if progress["best"] is None:
        network = network_of(state)
    else:
        step = progress["best"][0]
        found = f"{found} and the best network of step {step:,}"
        network = _read(best_network(folder, step))
    return Start(
        path=folder,
        found=found,
        folder=folder,
        network=network,
        step=step,
        config=state["config"],
        history=HISTORY.validate_python(progress["history"]),
        checkpoint=path,
        digests=(_sha256(network), _sha256(_read(path / "state.pt"))),
    )


def _from_file(path: Path) -> Start:
    if (path.parent / POLICY_FILE).exists():
        policy = _from_policy(path, path.parent)
        if path.name.startswith(f"checkpoint-{policy.digests[0][:12]}."):
            return policy
    network = _read(path)
    load_network(network, str(path))
    named = _STEP_OF_BEST.fullmatch(path.name)
    return Start(
        path=path,
        found="a network",
        folder=path.parent,
        network=network,
        step=int(named[1]) if named else 0,
        digests=(_sha256(network),),
    )


def _from_policy(path: Path, folder: Path) -> Start:
    whole = folder.absolute()
    repository = Repository(whole.parent)
    manifest = repository.policy(whole.name)
    if manifest.checkpoint is None:
        raise InvalidInputError(
            OPTION,
            "a policy with a network of slimq",
            f"{path}, of which only an ONNX graph is known",
        )
    network = repository.read_file(manifest.name, manifest.checkpoint)
    load_network(network, str(path))
    training = manifest.training
    step = 0 if training is None else (training.published_step or training.steps)
    return Start(
        path=path,
        found=f"the policy {manifest.name}",
        folder=folder,
        network=network,
        step=step,
        config=None if training is None else _known_part(training.config),
        history=manifest.history,
        digests=(_sha256(network),),
    )


def _known_part(config: dict[str, Any]) -> dict[str, Any] | None:
    """A published configuration as this version would write it; None if it cannot be read."""
    try:
        known = TrainConfig.model_validate(config)
    except ValidationError:
        return None
    compared = comparable(known, "")
    del compared["precision"]
    return compared


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read ({error.strerror})") from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
