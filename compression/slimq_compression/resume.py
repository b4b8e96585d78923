"""Finished network steps on disk, so that an interrupted recipe goes on after the last of them.

A prefix of a recipe's steps decides its network together with what it starts from, the seed, our
own sources, the versions and the processor: that is the key, and recipes that begin alike share
what they begin with. A file whose key is never asked for again stays until somebody removes it.
Only steps that took long are kept, and no network whose weights are on grids or whose ranges
were learned: those are not in a checkpoint. What is found makes the same variant as a run without
interruption, to the byte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import structlog
import torch
from pydantic import TypeAdapter

import slimq
import slimq_compression
from slimq.core.atomic import write_atomically
from slimq.core.errors import RepositoryError
from slimq.core.manifest import StepRecord
from slimq.networks.checkpoint import load_network, save_network
from slimq.networks.hardware import describe_hardware
from slimq.networks.qnetwork import QNetwork
from slimq_compression.recipe import Recipe

LONG_SECONDS = 5.0
"""Steps before it are done again sooner than their result is managed."""
LIBRARIES = ("numpy", "gymnasium", "ale-py", "onnx", "onnxruntime", "torch")

_log = structlog.get_logger(__name__)
_RECORDS = TypeAdapter(list[StepRecord])


@cache
def sources_digest() -> str:
    """Of every module of the packages that a step's result may depend on."""
    digest = hashlib.sha256()
    for package in (slimq, slimq_compression):
        for folder in sorted(package.__path__):
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Finished:
    """How far a recipe has come.

    Attributes:
        network: after the last step.
        records: of the steps so far.
        plays: how many times the collector has been asked to play.
    """

    network: QNetwork
    records: list[StepRecord]
    plays: int


class StepStore:
    """A folder of networks after finished steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, start: str, recipe: Recipe, device: torch.device) -> Finished | None:
        """The longest prefix of the recipe's network steps that is there, None without any.

        Args:
            start: what the recipe starts from, such as digests of checkpoint and calibration set.
            recipe: whose steps.
            device: where they train.
        """
        for count in range(len(recipe.network), 0, -1):
            path = self._path(start, recipe, count, device)
            try:
                noted = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
                content = path.read_bytes()
                if hashlib.sha256(content).hexdigest() != noted["sha256"]:
                    raise ValueError("cut or changed")
                records = _RECORDS.validate_python(noted["records"])
                found = Finished(load_network(content, str(path)), records, int(noted["plays"]))
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError, RepositoryError) as error:
                _log.warning("a finished step cannot be read", path=str(path), error=str(error))
                continue
            return found
        return None

    def keep(self, start: str, recipe: Recipe, progress: Finished, device: torch.device) -> None:
        """Remembers a prefix, if its last step took long; failing to is no error."""
        network = progress.network
        if progress.records[-1].seconds < LONG_SECONDS or network.grids or network.ranges:
            return
        path = self._path(start, recipe, len(progress.records), device)
        content = save_network(network)
        noted = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "plays": progress.plays,
            "records": _RECORDS.dump_python(progress.records, mode="json"),
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
            write_atomically(path.with_suffix(".json"), json.dumps(noted).encode())
        except OSError as error:
            _log.warning("a finished step is not kept", path=str(path), error=str(error))

    def _path(self, start: str, recipe: Recipe, count: int, device: torch.device) -> Path:
        steps: Sequence[object] = recipe.fingerprint[:count]
        terms = {
            "start": start,
            "seed": recipe.seed,
            "steps": steps,
            "opset": recipe.export.opset,
            "versions": {library: version(library) for library in LIBRARIES},
            "sources": sources_digest(),
            "machine": describe_hardware(device, ""),
        }
        digest = hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest[:32]}.safetensors"
