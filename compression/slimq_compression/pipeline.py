"""Runs a recipe: network steps, export, graph steps, each recorded; the result is staged.

Nothing here writes to the repository: the result is a manifest and the model's bytes, which the
accept gate then judges. Equal recipe, checkpoint, machine, versions and thread count give equal
bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import TypeVar

import numpy as np
import onnx
import structlog
import torch

from slimq.core.errors import ConfigError, InvalidInputError, NotFoundError, RepositoryError
from slimq.core.manifest import (
    FileEntry,
    RecipeRecord,
    StepFidelity,
    StepRecord,
    TeacherRecord,
    VariantManifest,
)
from slimq.core.observation import Observations
from slimq.core.publish import content_entry
from slimq.core.qfunction import QFunction
from slimq.core.repository import Repository
from slimq.evaluation.fidelity import measure_fidelity, q_values_of
from slimq.networks.export import export_onnx
from slimq.networks.graph_counts import count_graph
from slimq.networks.hardware import describe_hardware, resolve_precision
from slimq.networks.qnetwork import QNetwork, count_macs, count_parameters
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.collector import make_collector
from slimq_compression.context import PassContext, Progress, ignore, silent, step_seed
from slimq_compression.graph.model import opset_of, to_bytes
from slimq_compression.graph.weights import count_weights, describe_precision
from slimq_compression.recipe import Recipe, Step, applied
from slimq_compression.resume import Finished, StepStore
from slimq_compression.selection import open_candidate
from slimq_compression.source import Source
from slimq_compression.storage.packing import compact, compress_file

LIBRARIES = ("slimq", "numpy", "onnx", "onnxruntime", "torch", "zstandard")

_log = structlog.get_logger(__name__)

OnStep = Callable[[StepRecord], None]
T = TypeVar("T", QNetwork, onnx.ModelProto)
Counts = tuple[int, int, int]
"""Parameters, nonzero parameters, and multiply-accumulates."""


@dataclass(frozen=True)
class Staged:
    """A variant that is made but not published.

    Attributes:
        manifest: the variant's manifest.
        model: the ONNX model as a session loads it.
        stored: the bytes of its file; these differ from `model` if the recipe compresses it.
    """

    manifest: VariantManifest
    model: bytes
    stored: bytes


def run_recipe(
    recipe: Recipe,
    source: Source,
    *,
    device: torch.device | None = None,
    progress: Progress = silent,
    on_step: OnStep = ignore,
    store: StepStore | None = None,
    resume: bool = True,
) -> Staged:
    """Makes a variant in memory.

    Args:
        recipe: the recipe.
        source: the policy to compress, with the recipe's teacher; not modified.
        device: device for network passes that train, by default the CPU.
        progress: opens progress bars.
        on_step: called after each step.
        store: store of finished network steps.
        resume: whether to resume after steps found in the store.

    Raises:
        ConfigError: a step's parameters do not fit this network.
        ValueError: the source does not have the recipe's teacher; see `teach`.
    """
    taught_by = None if source.teacher is None else source.teacher.record
    if recipe.taught_by != _teacher_of(taught_by):
        expected = f"expected teacher {recipe.taught_by!r}, got {taught_by!r}"
        raise ValueError(f"{recipe.source}: {expected}")
    run = _Run(recipe, source, device or torch.device("cpu"), progress, on_step)
    network = run.resume(store) if store and resume else source.network(recipe)
    for step in recipe.network[len(run.records) :]:
        network = run.network_step(step, network)
        if store:
            run.keep(store, network)
    model = run.export(network)
    for step in recipe.graph:
        model = run.graph_step(step, model)
    if recipe.store.compact:
        model = compact(model)
    content = to_bytes(model)
    stored, entry = run.store(content)
    last = run.records[-1]
    manifest = VariantManifest(
        policy=source.manifest.name,
        name=recipe.name,
        parent=source.checkpoint_sha256,
        recipe=RecipeRecord(
            name=recipe.name,
            description=recipe.description,
            seed=recipe.seed,
            steps=run.records,
            calibration_sha256=source.calibration_sha256,
            accept=applied(recipe.accept, source.manifest).model_dump(mode="json"),
            search=recipe.search,
            teacher=taught_by,
        ),
        model=entry,
        precision=describe_precision(model),
        parameters=last.parameters_count,
        nonzero_parameters=last.nonzero_parameters,
        macs=last.macs,
        opset=opset_of(model),
        versions={library: version(library) for library in LIBRARIES},
    )
    return Staged(manifest, content, stored)


def is_current(recipe: Recipe, source: Source, repository: Repository) -> bool:
    """Whether the published variant is what the recipe would make now, and readable.

    That is: made by the same steps and seed from the same checkpoint and calibration set, taught by
    the same checkpoint, and accepted by the same gate.
    """
    try:
        made, _ = repository.read_model(source.manifest.name, recipe.name)
    except NotFoundError:
        return False
    except RepositoryError as error:
        _log.warning("remaking an invalid variant", variant=recipe.name, error=str(error))
        return False
    return (
        made.parent == source.checkpoint_sha256
        and is_made_by(made.recipe, recipe)
        and made.recipe.teacher == (source.teacher and source.teacher.record)
        and made.recipe.calibration_sha256 == source.calibration_sha256
        and made.recipe.accept == applied(recipe.accept, source.manifest).model_dump(mode="json")
    )


def is_made_by(record: RecipeRecord, recipe: Recipe) -> bool:
    """Whether a variant's record has the recipe's steps, seed and teacher."""
    steps = [(step.name, step.parameters) for step in record.steps]
    made_by = (record.seed, _teacher_of(record.teacher), steps)
    return made_by == (recipe.seed, recipe.taught_by, recipe.fingerprint)


def _teacher_of(record: TeacherRecord | None) -> tuple[str, float] | None:
    return None if record is None else (record.policy, record.share)


class _Run:
    def __init__(
        self,
        recipe: Recipe,
        source: Source,
        device: torch.device,
        progress: Progress,
        on_step: OnStep,
    ) -> None:
        self.recipe, self.source, self.device = recipe, source, device
        self.progress, self.on_step = progress, on_step
        self.collector = make_collector(source.manifest, source.calibration)
        self.records: list[StepRecord] = []
        self.macs = 0

    @cached_property
    def states(self) -> Observations:
        """The states on which every step is measured."""
        return self.source.judged.observations(self.source.manifest.observation)

    def resume(self, store: StepStore) -> QNetwork:
        """Restores the network and the records of steps that were finished before."""
        found = store.find(self.source.digest, self.recipe, self.device)
        if found is None:
            return self.source.network(self.recipe)
        self.collector.calls = found.plays
        for record in found.records:
            self.records.append(record)
            self.on_step(record)
        _log.info("resumed", variant=self.recipe.name, finished_steps=len(found.records))
        return found.network

    def keep(self, store: StepStore, network: QNetwork) -> None:
        """Stores the network after the steps so far."""
        done = Finished(network, self.records, self.collector.calls)
        store.keep(self.source.digest, self.recipe, done, self.device)

    def network_step(self, step: Step, network: QNetwork) -> QNetwork:
        started = time.monotonic()
        changed = self._apply(step, network)
        seconds = time.monotonic() - started
        size = len(export_onnx(changed, self.recipe.export.opset))
        self._record(
            step.name,
            _dump(step),
            self._count(changed),
            size,
            self._fidelity(TorchPolicy(changed)),
            seconds,
            self._hardware(step),
        )
        return changed

    def export(self, network: QNetwork) -> onnx.ModelProto:
        started = time.monotonic()
        parameters = self.recipe.export.model_dump(mode="json")
        if self.source.graph is not None and not self.recipe.network:
            content = self.source.graph
            model = onnx.load_model_from_string(content)
            counts = count_graph(model)
            self.macs = counts[2]
        else:
            content = export_onnx(network, self.recipe.export.opset)
            model = onnx.load_model_from_string(content)
            counts = self._count(network)
        self._record_model("export", parameters, counts, content, started)
        return model

    def graph_step(self, step: Step, model: onnx.ModelProto) -> onnx.ModelProto:
        started = time.monotonic()
        changed = self._apply(step, model)
        counts = (*count_weights(changed), self.macs)
        self._record_model(step.name, _dump(step), counts, to_bytes(changed), started)
        return changed

    def store(self, content: bytes) -> tuple[bytes, FileEntry]:
        """Encodes the model file; recorded as a step only if the recipe changes the file."""
        started = time.monotonic()
        store = self.recipe.store
        stored, entry = content, content_entry("model", ".onnx", content)
        if store.compression == "zstd":
            stored = compress_file(content, store.level)
            entry = content_entry("model", ".onnx.zst", stored, len(content))
        if store.changes:
            last = self.records[-1]
            counts = (last.parameters_count, last.nonzero_parameters, last.macs)
            seconds = time.monotonic() - started
            parameters = store.model_dump(mode="json")
            self._record("store", parameters, counts, len(stored), last.fidelity, seconds)
        return stored, entry

    def _apply(self, step: Step, given: T) -> T:
        teacher = self.source.teacher
        context = PassContext(
            teacher=self.source.full if teacher is None else teacher.full,
            share=1.0 if teacher is None else teacher.record.share,
            full=self.source.full,
            observation=self.source.manifest.observation,
            calibration=self.source.lessons,
            collect=self.collector,
            parameters=self.source.parameters,
            seed=step_seed(self.recipe.seed, len(self.records)),
            device=self.device,
            progress=self.progress,
        )
        try:
            changed: T = step.row.apply(given, step.params, context)
        except InvalidInputError as error:
            if not error.field.startswith(f"{step.name}."):
                raise
            place = step.place + error.field.removeprefix(step.name)
            problem = f"expected {error.expected}, received {error.received}"
            raise ConfigError(self.recipe.source, place, problem) from error
        return changed

    def _count(self, network: QNetwork) -> Counts:
        self.macs = count_macs(network.spec)
        nonzero = sum(int(torch.count_nonzero(p)) for p in network.parameters())
        return count_parameters(network), nonzero, self.macs

    def _fidelity(self, q_function: QFunction) -> StepFidelity | None:
        q_values = q_values_of(q_function, self.states)
        if not np.isfinite(q_values).all():
            return None
        fidelity = measure_fidelity(q_values, self.source.judged.q_values)
        return StepFidelity(agreement=fidelity.agreement, regret=fidelity.regret)

    def _hardware(self, step: Step) -> str | None:
        """The hardware a step trained on; None for passes that do not train."""
        precision = getattr(step.params, "precision", None)
        if precision is None:
            return None
        return describe_hardware(self.device, resolve_precision(precision, self.device))

    def _record_model(
        self,
        name: str,
        parameters: dict[str, object],
        counts: Counts,
        content: bytes,
        started: float,
    ) -> None:
        seconds = time.monotonic() - started
        policy = open_candidate(self.source.manifest, content, self.recipe.name)
        self._record(name, parameters, counts, len(content), self._fidelity(policy), seconds)

    def _record(
        self,
        name: str,
        parameters: dict[str, object],
        counts: Counts,
        size: int,
        fidelity: StepFidelity | None,
        seconds: float,
        hardware: str | None = None,
    ) -> None:
        record = StepRecord(
            name=name,
            parameters=parameters,
            parameters_count=counts[0],
            nonzero_parameters=counts[1],
            macs=counts[2],
            bytes=size,
            fidelity=fidelity,
            seconds=round(seconds, 3),
            hardware=hardware,
        )
        self.records.append(record)
        self.on_step(record)


def _dump(step: Step) -> dict[str, object]:
    return step.params.model_dump(mode="json")
