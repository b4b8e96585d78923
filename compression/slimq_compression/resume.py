"""Stores finished network steps on disk, so that an interrupted recipe can resume after them.

The key consists of everything that determines the network: the prefix of steps, the input, the
seed, slimq's sources, library versions and the processor. Recipes with a common prefix share its
steps. Files that are no longer needed stay until somebody removes them. Only long steps are stored,
and never networks with grids or learned ranges, which checkpoints do not contain. A resumed run
makes the same variant as an uninterrupted one, to the byte.
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
"""Shorter steps are repeated rather than stored."""
LIBRARIES = ("numpy", "gymnasium", "ale-py", "onnx", "onnxruntime", "torch")

_log = structlog.get_logger(__name__)
_RECORDS = TypeAdapter(list[StepRecord])


@cache
def sources_digest() -> str:
    """Digest of all modules that may affect a step's result."""
    digest = hashlib.sha256()
    for package in (slimq, slimq_compression):
        for folder in sorted(package.__path__):
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Finished:
    """State after the finished steps of a recipe.

    Attributes:
        network: network after the last step.
        records: records of the steps so far.
        plays: number of calls to the collector.
    """

    network: QNetwork
    records: list[StepRecord]
    plays: int


class StepStore:
    """A folder with the networks of finished steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, start: str, recipe: Recipe, device: torch.device) -> Finished | None:
        """Loads the longest stored prefix of the recipe's network steps; None if there is none.

        Args:
            start: digest of the recipe's input.
            recipe: the recipe.
            device: device that the steps train on.
        """
        for count in range(len(recipe.network), 0, -1):
            path = self._path(start, recipe, count, device)
            try:
                noted = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
                content = path.read_bytes()
                if hashlib.sha256(content).hexdigest() != noted["sha256"]:
                    raise ValueError("truncated or modified")
                records = _RECORDS.validate_python(noted["records"])
                found = Finished(load_network(content, str(path)), records, int(noted["plays"]))
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError, RepositoryError) as error:
                _log.warning("stored step cannot be read", path=str(path), error=str(error))
                continue
            return found
        return None

    def keep(self, start: str, recipe: Recipe, progress: Finished, device: torch.device) -> None:
        """Stores a prefix if its last step took long; failure to write is only logged."""
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
            _log.warning("finished step cannot be stored", path=str(path), error=str(error))

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
