"""One run of a model, and the requests that share it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from slimq.core.observation import Observations
from slimq.core.qfunction import QFunction, QValues
from slimq_service.errors import NonFiniteError
from slimq_service.metrics.service import Metrics
from slimq_service.variants.loading import LoadedVariant

Computed = tuple[QValues, float, float]
"""What a run has given, when it began, and how many seconds it took."""


class Inference(NamedTuple):
    """An answer.

    Attributes:
        q_values: `(batch, actions)`.
        seconds: what the model took, for the whole batch.
        queue_seconds: from the request's arrival until the model began.
        executions: runs of the model to count for it: those who share one count it once.
    """

    q_values: QValues
    seconds: float
    queue_seconds: float = 0.0
    executions: int = 1


@dataclass(eq=False)
class Job:
    """A request that waits to be computed, since `arrived` of `time.perf_counter`."""

    variant: LoadedVariant
    observations: Observations
    future: asyncio.Future[Inference]
    arrived: float


def greedy_actions(q_values: QValues) -> list[int]:
    """The greedy action of each row of Q-values `(batch, actions)`.

    Raises:
        NonFiniteError: naming the first observation whose Q-values are not all finite.
    """
    rows: list[list[float]] = q_values.tolist()
    if not math.isfinite(sum(map(sum, rows))):  # or finite ones whose sum is not
        check_finite(q_values)
    return [row.index(max(row)) for row in rows]


def check_finite(q_values: QValues) -> None:
    """Refuses Q-values that JSON cannot express.

    Raises:
        NonFiniteError: naming the first observation whose Q-values are not all finite.
    """
    finite = np.isfinite(q_values)
    if finite.all():
        return
    row = int(np.argmin(finite.all(axis=1)))
    received = ", ".join(f"{value:g}" for value in q_values[row][:16])
    raise NonFiniteError(f"observations[{row}]", "observations with finite Q-values", received)


def join(batch: Sequence[Observations]) -> Observations:
    """Observations of several requests as one batch; those of a single one without a copy."""
    if len(batch) == 1:
        return batch[0]
    joined: Any = np.concatenate(batch)
    whole: Observations = joined
    return whole


def compute(q_function: QFunction, batch: Sequence[Observations]) -> Computed:
    """Runs a model on the observations of several requests at once."""
    started = time.perf_counter()
    q_values = q_function(join(batch))
    return q_values, started, time.perf_counter() - started


def run_inline(variant: LoadedVariant, observations: Observations, metrics: Metrics) -> Inference:
    """Runs a variant in the event loop for one request, and counts the batch."""
    started = time.perf_counter()
    q_values = variant.q_function(observations)
    seconds = time.perf_counter() - started
    measured = metrics.of(variant.policy.name, variant.manifest.name)
    measured.count_inline(len(observations))
    return Inference(q_values, seconds)


def compute_inline(
    variant: LoadedVariant, batch: Sequence[Observations], metrics: Metrics
) -> Computed:
    """Runs a variant in the event loop, and counts the batch as one that was computed there."""
    computed = compute(variant.q_function, batch)
    measured = metrics.of(variant.policy.name, variant.manifest.name)
    measured.count_inline(len(computed[0]))
    return computed


def distribute(jobs: Iterable[Job], computed: Computed) -> None:
    """Gives each its own rows of a run; the first that still waits counts it."""
    q_values, started, seconds = computed
    start, executions = 0, 1
    for job in jobs:
        stop = start + len(job.observations)
        if not job.future.done():
            waited = started - job.arrived
            job.future.set_result(Inference(q_values[start:stop], seconds, waited, executions))
            executions = 0
        start = stop


def fail(jobs: Iterable[Job], error: BaseException) -> None:
    """Gives each its own copy: an exception gathers the traceback of everybody who raises it."""
    for job in jobs:
        if not job.future.done():
            job.future.set_exception(_copy(error))


def _copy(error: BaseException) -> BaseException:
    """One of the same type where that can be made, and be an exception of a future."""
    try:
        own = type(error).__new__(type(error), *error.args)
        own.__dict__.update(error.__dict__)
    except Exception:
        own = RuntimeError(str(error))
    if isinstance(own, StopIteration):
        own = RuntimeError(str(error))
    own.__cause__ = error
    return own
