"""The protocol's response documents: metadata, readiness, configuration and statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

from pydantic import BaseModel, Field

from slimq.core.manifest import PolicyManifest
from slimq_service.api.v2.state import State
from slimq_service.api.v2.tensors import PLATFORM, Tensor, input_tensor, output_tensors
from slimq_service.metrics.statistics import Duration, VariantStatistics

BACKEND = "onnxruntime"
TAG = "open inference protocol"
"""Tag of the routes in the OpenAPI document."""


class Failure(BaseModel):
    """Error response."""

    error: str


class ServerMetadata(BaseModel):
    """Server metadata."""

    name: Literal["slimq"] = "slimq"
    version: str
    extensions: list[str]


class Health(BaseModel):
    """Health of the server, with both keys in both responses: clients read either."""

    live: Literal[True] = True
    ready: bool
    error: str | None = Field(default=None, description="why it is not ready")


class ModelReady(BaseModel):
    """Readiness of a model or a version."""

    name: str
    ready: bool
    error: str | None = Field(default=None, description="why it is not ready")


class TensorMetadata(BaseModel):
    """An input or output; -1 is the batch dimension."""

    name: str
    datatype: str = Field(examples=["FP32"])
    shape: list[int]


class ModelMetadata(BaseModel):
    """Model metadata."""

    name: str
    versions: list[str] = Field(description="all versions, or the requested one")
    platform: str = PLATFORM
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class Reshape(BaseModel):
    """The actual shape, as `dims` must not be empty."""

    shape: list[int] = []


class TensorConfig(BaseModel):
    """An input or output of the configuration, without the batch dimension."""

    name: str
    data_type: str = Field(examples=["TYPE_FP32"])
    dims: list[int]
    reshape: Reshape | None = Field(
        default=None, description="for outputs with one number per observation"
    )


class ModelConfig(BaseModel):
    """The part of Triton's model configuration that load generators read."""

    name: str
    platform: str = PLATFORM
    backend: str = BACKEND
    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]


class DurationStatistics(BaseModel):
    """Number of occurrences, and their total nanoseconds."""

    count: int
    ns: int


class StageStatistics(BaseModel):
    """Requests, and the time that successful ones spent in each stage."""

    success: DurationStatistics
    fail: DurationStatistics
    queue: DurationStatistics = Field(description="queued for a thread or for batching")
    compute_input: DurationStatistics = Field(description="decoding the request")
    compute_infer: DurationStatistics = Field(description="running the model")
    compute_output: DurationStatistics = Field(description="encoding the response")


class ModelStatistics(BaseModel):
    """A version's totals since the process started, for requests of this protocol and of `/v1`."""

    name: str
    version: str
    last_inference: int = Field(description="milliseconds since 1970, 0 before the first")
    inference_count: int = Field(description="observations served")
    execution_count: int = Field(description="model runs")
    inference_stats: StageStatistics
    batch_stats: list[object] = Field(default=[], description="always empty")


class StatisticsList(BaseModel):
    """The statistics of one or more versions."""

    model_stats: list[ModelStatistics]


class IndexEntry(BaseModel):
    """A version in the repository index."""

    name: str
    version: str
    state: State
    reason: str


class Loaded(BaseModel):
    """Result of a load or unload."""

    name: str
    load: bool = Field(description="true after a load, false after an unload")
    versions: list[str]


def model_metadata(policy: PolicyManifest, versions: list[str]) -> ModelMetadata:
    """Describes a policy as a model."""
    return ModelMetadata(
        name=policy.name,
        versions=versions,
        inputs=[_metadata(input_tensor(policy.observation))],
        outputs=[_metadata(tensor) for tensor in output_tensors(len(policy.actions))],
    )


def model_config(policy: PolicyManifest, max_batch: int) -> ModelConfig:
    """Configures a policy as a model."""
    return ModelConfig(
        name=policy.name,
        max_batch_size=max_batch,
        input=[_config(input_tensor(policy.observation))],
        output=[_config(tensor) for tensor in output_tensors(len(policy.actions))],
    )


def model_statistics(policy: str, variant: str, totals: VariantStatistics) -> ModelStatistics:
    """Converts a variant's statistics."""
    durations = {
        stage: DurationStatistics(count=totals.success.count, ns=nanoseconds)
        for stage, nanoseconds in asdict(totals.stages).items()
    }
    stages = StageStatistics(
        success=_duration(totals.success), fail=_duration(totals.fail), **durations
    )
    return ModelStatistics(
        name=policy,
        version=variant,
        last_inference=totals.last_inference,
        inference_count=totals.inferences,
        execution_count=totals.executions,
        inference_stats=stages,
    )


def merge_statistics(lists: Sequence[StatisticsList]) -> StatisticsList:
    """Sums the statistics of several workers, in the first one's order of versions."""
    merged: dict[tuple[str, str], ModelStatistics] = {}
    for one in (one for some in lists for one in some.model_stats):
        key = (one.name, one.version)
        merged[key] = _sum(merged[key], one) if key in merged else one
    return StatisticsList(model_stats=list(merged.values()))


def _sum(a: ModelStatistics, b: ModelStatistics) -> ModelStatistics:
    stages = {}
    for name in StageStatistics.model_fields:
        first, second = getattr(a.inference_stats, name), getattr(b.inference_stats, name)
        stages[name] = DurationStatistics(count=first.count + second.count, ns=first.ns + second.ns)
    return ModelStatistics(
        name=a.name,
        version=a.version,
        last_inference=max(a.last_inference, b.last_inference),
        inference_count=a.inference_count + b.inference_count,
        execution_count=a.execution_count + b.execution_count,
        inference_stats=StageStatistics(**stages),
    )


def _duration(duration: Duration) -> DurationStatistics:
    return DurationStatistics(count=duration.count, ns=duration.nanoseconds)


def _metadata(tensor: Tensor) -> TensorMetadata:
    return TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=[-1, *tensor.shape])


def _config(tensor: Tensor) -> TensorConfig:
    return TensorConfig(
        name=tensor.name,
        data_type=f"TYPE_{tensor.datatype}",
        dims=list(tensor.shape) or [1],
        reshape=None if tensor.shape else Reshape(),
    )
