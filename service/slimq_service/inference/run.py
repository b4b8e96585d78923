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
"""The Q-values of a run, its start by `time.perf_counter`, and the seconds it took."""


class Inference(NamedTuple):
    """The result of a request's inference.

    Attributes:
        q_values: `(batch, actions)`.
        seconds: model execution time, for the whole batch.
        queue_seconds: from the request's arrival to the start of the model.
        executions: model runs to count for this request; requests that share a run count it once.
    """

    q_values: QValues
    seconds: float
    queue_seconds: float = 0.0
    executions: int = 1


@dataclass(eq=False)
class Job:
    """A queued request; `arrived` is by `time.perf_counter`."""

    variant: LoadedVariant
    observations: Observations
    future: asyncio.Future[Inference]
    arrived: float


def greedy_actions(q_values: QValues) -> list[int]:
    """The greedy action of each row of Q-values `(batch, actions)`.

    Raises:
        NonFiniteError: some are not finite; names the first such observation.
    """
    rows: list[list[float]] = q_values.tolist()
    if not math.isfinite(sum(map(sum, rows))):  # a sum of finite values can overflow, too
        check_finite(q_values)
    actions = []
    for row in rows:
        actions.append(row.index(max(row)))  # noqa: PERF401 (a comprehension is one more call)
    return actions


def check_finite(q_values: QValues) -> None:
    """Refuses Q-values that JSON cannot represent.

    Raises:
        NonFiniteError: some are not finite; names the first such observation.
    """
    finite = np.isfinite(q_values)
    if finite.all():
        return
    row = int(np.argmin(finite.all(axis=1)))
    received = ", ".join(f"{value:g}" for value in q_values[row][:16])
    raise NonFiniteError(f"observations[{row}]", "observations with finite Q-values", received)


def concatenate(batch: Sequence[Observations]) -> Observations:
    """Concatenates the observations of several requests; a single request's are not copied."""
    if len(batch) == 1:
        return batch[0]
    joined: Any = np.concatenate(batch)
    whole: Observations = joined
    return whole


def compute(q_function: QFunction, batch: Sequence[Observations]) -> Computed:
    """Runs a model once on the observations of several requests."""
    started = time.perf_counter()
    q_values = q_function(concatenate(batch))
    return q_values, started, time.perf_counter() - started


def run_inline(variant: LoadedVariant, observations: Observations, metrics: Metrics) -> Inference:
    """Runs a variant in the event loop for a single request, and counts the batch."""
    started = time.perf_counter()
    q_values = variant.q_function(observations)
    seconds = time.perf_counter() - started
    measured = metrics.of(variant.policy.name, variant.manifest.name)
    measured.count_inline(len(observations))
    return Inference(q_values, seconds)


def compute_inline(
    variant: LoadedVariant, batch: Sequence[Observations], metrics: Metrics
) -> Computed:
    """Runs a variant in the event loop for several requests, and counts the batch as inline."""
    computed = compute(variant.q_function, batch)
    measured = metrics.of(variant.policy.name, variant.manifest.name)
    measured.count_inline(len(computed[0]))
    return computed


def distribute(jobs: Iterable[Job], computed: Computed) -> None:
    """Gives each job its rows of a run; the first one not cancelled counts the run."""
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
    """Fails each job with its own copy: raising one exception repeatedly piles up tracebacks."""
    for job in jobs:
        if not job.future.done():
            job.future.set_exception(_copy(error))


def _copy(error: BaseException) -> BaseException:
    """A copy of the same type, or a RuntimeError if that cannot be made or set on a future."""
    try:
        own = type(error).__new__(type(error), *error.args)
        own.__dict__.update(error.__dict__)
    except Exception:
        own = RuntimeError(str(error))
    if isinstance(own, StopIteration):
        own = RuntimeError(str(error))
    own.__cause__ = error
    return own
