"""Inspects a variant: operators before and after optimization, their times, tensor sizes.

The sessions use the project's common configuration, plus options for saving or profiling. ONNX
Runtime's profile has a resolution of a microsecond and includes the profiler's overhead of a few
microseconds per operator. Operator times are therefore only comparable with each other; the whole
call is timed in a session without profiling.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort

from slimq.core.errors import InvalidInputError
from slimq.core.manifest import PolicyManifest
from slimq.core.observation import Observations
from slimq.core.onnx_policy import OnnxPolicy, make_session, session_options
from slimq.core.qfunction import INPUT, OUTPUT
from slimq.core.repository import Repository
from slimq.core.statistics import interquartile_mean
from slimq.evaluation.latency import processor_name

ITERATIONS = 300
MAX_BATCH = 4_096
MAX_ITERATIONS = 10_000
"""ONNX Runtime drops events beyond a million per profile."""

_WARM_UP = 20
_KERNEL = "_kernel_time"


@dataclass(frozen=True)
class OperatorTime:
    """The time of one node of the optimized graph.

    Attributes:
        operator: the operator, as in `Inspection.after`.
        mean_us: interquartile mean over the timed calls, in microseconds.
        share: share of the sum over all nodes; None if every node is below the clock's resolution.
    """

    name: str
    operator: str
    mean_us: float
    share: float | None


@dataclass(frozen=True)
class TensorBytes:
    """One tensor of the model file.

    Attributes:
        dtype: numpy's name for the type, or names such as `int4`.
        bytes: size in the uncompressed file, including name and shape.
        share: share of the uncompressed file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    share: float


@dataclass(frozen=True)
class Inspection:
    """The contents of a variant's model.

    Attributes:
        stored_bytes: size on disk.
        model_bytes: size after decompression; equals `stored_bytes` if the model is not compressed.
        graph_bytes: the part of `model_bytes` outside tensors: nodes, names, metadata.
        before: number of nodes per operator.
        after: number of nodes per operator after optimization, with the domain unless it is ONNX's
            as a prefix and a fused activation as a suffix.
        operators: times of the nodes, in execution order.
        tensors: tensors, largest first.
        batch: observations per call.
        iterations: number of timed calls.
        states: `calibration`, or `zeros` if the policy has no calibration set.
        call_us: median time of a whole call without profiling, in microseconds.
    """

    policy: str
    variant: str
    sha256: str
    stored_bytes: int
    model_bytes: int
    graph_bytes: int
    before: dict[str, int]
    after: dict[str, int]
    operators: tuple[OperatorTime, ...]
    tensors: tuple[TensorBytes, ...]
    batch: int
    iterations: int
    states: str
    call_us: float
    processor: str
    onnxruntime: str


class _Node(NamedTuple):
    """A node as identified in the profile, where an unnamed node is named by operator and index."""

    name: str
    operator: str
    position: str


def inspect_variant(
    repository: Repository,
    policy: str,
    variant: str,
    *,
    batch: int = 1,
    iterations: int = ITERATIONS,
) -> Inspection:
    """Inspects a variant; leaves no files behind.

    Args:
        repository: the repository.
        policy: the policy's name.
        variant: the variant's name.
        batch: states per call.
        iterations: number of timed calls, after an untimed warm-up.

    Raises:
        NotFoundError: there is no such policy or variant.
        RepositoryError: the model is invalid or does not load.
        InvalidInputError: batch or iterations are out of range.
    """
    _check_range("batch", batch, MAX_BATCH)
    _check_range("iterations", iterations, MAX_ITERATIONS)
    manifest = repository.policy(policy)
    entry, model = repository.read_model(policy, variant)
    name = f"{policy}/{variant}"
    q_function = OnnxPolicy(model, manifest.observation, len(manifest.actions), name)
    states, source = _read_states(repository, manifest)
    batches = _make_batches(states, batch, iterations)
    with tempfile.TemporaryDirectory(prefix="slimq-inspect-") as folder:
        optimized = _optimize(model, name, Path(folder))
        durations = _profile(model, name, batches, Path(folder))
    parsed = onnx.load_model_from_string(model)
    tensors = tuple(measure_tensors(parsed.graph, len(model)))
    return Inspection(
        policy=policy,
        variant=variant,
        sha256=entry.model.sha256,
        stored_bytes=entry.model.bytes,
        model_bytes=len(model),
        graph_bytes=len(model) - sum(tensor.bytes for tensor in tensors),
        before=count_operators(parsed.graph),
        after=count_operators(optimized.graph),
        operators=tuple(_summarize(durations, optimized.graph)),
        tensors=tensors,
        batch=batch,
        iterations=iterations,
        states=source,
        call_us=_time_calls(q_function, batches),
        processor=processor_name(),
        onnxruntime=str(ort.__version__),
    )


def count_operators(graph: onnx.GraphProto) -> dict[str, int]:
    """Number of nodes per operator, the most frequent first."""
    counts = Counter(operator_of(node) for node in graph.node)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def operator_of(node: onnx.NodeProto) -> str:
    """A node's operator, with the domain unless it is ONNX's, and the fused activation if any."""
    activations = [
        onnx.helper.get_attribute_value(attribute)
        for attribute in node.attribute
        if attribute.name == "activation"
    ]
    domain = f"{node.domain}." if node.domain not in ("", "ai.onnx") else ""
    return "+".join([domain + node.op_type, *(bytes(name).decode() for name in activations)])


def measure_tensors(graph: onnx.GraphProto, model_bytes: int) -> list[TensorBytes]:
    """Lists all initializers, sparse initializers and constants of a graph, largest first."""
    found = [
        TensorBytes(name, _dtype_name(values), shape, size, size / model_bytes)
        for name, values, shape, size in _tensors(graph)
    ]
    return sorted(found, key=lambda tensor: (-tensor.bytes, tensor.name))


def _tensors(
    graph: onnx.GraphProto,
) -> Iterator[tuple[str, onnx.TensorProto, tuple[int, ...], int]]:
    for tensor in graph.initializer:
        yield tensor.name, tensor, tuple(tensor.dims), tensor.ByteSize()
    for sparse in graph.sparse_initializer:
        yield sparse.values.name, sparse.values, tuple(sparse.dims), sparse.ByteSize()
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield node.output[0], attribute.t, tuple(attribute.t.dims), attribute.t.ByteSize()


def _dtype_name(tensor: onnx.TensorProto) -> str:
    return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)))


def _check_range(name: str, value: int, maximum: int) -> None:
    if not 1 <= value <= maximum:
        raise InvalidInputError(name, f"a number from 1 to {maximum}", str(value))


def _read_states(repository: Repository, manifest: PolicyManifest) -> tuple[Observations, str]:
    spec, calibration = manifest.observation, repository.calibration(manifest)
    if calibration is None:
        return spec.zeros(), "zeros"
    return calibration.observations(spec), "calibration"


def _make_batches(states: Observations, size: int, count: int) -> list[Observations]:
    """Builds one batch per call, of which at most 64 are distinct; states repeat if too few."""
    distinct = max(1, min(64, count, len(states) // size))
    rows = np.arange(distinct * size) % len(states)
    batches = [states[rows[start : start + size]] for start in range(0, len(rows), size)]
    return [batches[index % distinct] for index in range(count)]


def _optimize(model: bytes, name: str, folder: Path) -> onnx.ModelProto:
    options = session_options()
    path = folder / "optimized.onnx"
    options.optimized_model_filepath = str(path)
    make_session(model, name, options)
    return onnx.load_model(path)


def _profile(
    model: bytes, name: str, batches: list[Observations], folder: Path
) -> dict[_Node, list[float]]:
    """Microseconds of each timed call by node, in execution order."""
    options = session_options()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = make_session(model, name, options)
    for batch in [*_warm_up(batches), *batches]:
        session.run([OUTPUT], {INPUT: batch})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    durations: dict[_Node, list[float]] = defaultdict(list)
    for event in sorted(events, key=lambda event: event["ts"]):
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL):
            details = event["args"]
            name = event["name"].removesuffix(_KERNEL)
            node = _Node(name, details["op_name"], details["node_index"])
            durations[node].append(float(event["dur"]))
    return {node: calls[-len(batches) :] for node, calls in durations.items()}


def _summarize(
    durations: dict[_Node, list[float]], graph: onnx.GraphProto
) -> Iterator[OperatorTime]:
    named = {node.name: operator_of(node) for node in graph.node if node.name}
    means = {node: interquartile_mean(calls) for node, calls in durations.items()}
    total = sum(means.values())
    for node, mean in means.items():
        share = mean / total if total else None
        yield OperatorTime(node.name, named.get(node.name, node.operator), round(mean, 3), share)


def _time_calls(q_function: OnnxPolicy, batches: list[Observations]) -> float:
    for batch in _warm_up(batches):
        q_function(batch)
    durations = []
    for batch in batches:
        start = time.perf_counter_ns()
        q_function(batch)
        durations.append(time.perf_counter_ns() - start)
    return round(float(np.median(durations)) / 1e3, 2)


def _warm_up(batches: list[Observations]) -> Iterable[Observations]:
    return (batches[index % len(batches)] for index in range(_WARM_UP))
