"""Means, confidence intervals and paired differences of returns.

The interquartile mean and the bootstrap intervals follow Agarwal et al. 2021, "Deep Reinforcement
Learning at the Edge of the Statistical Precipice" (arXiv 2108.13264), section 4. Resampling is
seeded: the same returns always give the same interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slimq.core.errors import InvalidInputError
from slimq.core.report import EvaluationReport, Interval

RESAMPLES = 10_000
CONFIDENCE = 0.95
MARGIN = 0.02
"""Share of the baseline's return above random that a variant may lose, undisturbed."""

_SEED = 20_240_229
_CHUNK = 2_000_000

Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], Floats]


def interquartile_mean(values: npt.ArrayLike) -> float:
    """The mean without the lowest and the highest quarter (rounded down) of the values."""
    return float(_trimmed(np.asarray(values, dtype=np.float64)[np.newaxis])[0])


def mean_interval(
    values: npt.ArrayLike, *, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> Interval:
    """Percentile bootstrap interval of the mean."""
    return _bootstrap(values, lambda rows: rows.mean(axis=1), resamples, confidence)


def interquartile_interval(
    values: npt.ArrayLike, *, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> Interval:
    """Percentile bootstrap interval of the interquartile mean."""
    return _bootstrap(values, _trimmed, resamples, confidence)


@dataclass(frozen=True)
class PairedDifference:
    """A variant's return relative to the full policy's on the same seeds.

    Attributes:
        mean: mean of (variant − full) / (mean of full − mean of random) over the episodes.
        low: lower bound of the bootstrap interval over paired episodes.
        high: upper bound.
        margin: non-inferiority margin, fixed in advance.
        episodes: number of pairs.
    """

    mean: float
    low: float
    high: float
    margin: float
    episodes: int

    @property
    def non_inferior(self) -> bool:
        """Whether the loss at the lower bound is at most the margin."""
        return self.low >= -self.margin


def paired_difference(
    variant: EvaluationReport,
    full: EvaluationReport,
    random_mean: float,
    margin: float = MARGIN,
) -> PairedDifference:
    """Compares two reports episode by episode.

    Args:
        variant: the report of the variant.
        full: the report of the baseline.
        random_mean: mean return of a uniformly random policy, the zero of the scale.
        margin: non-inferiority margin, as a share of full − random.

    Raises:
        InvalidInputError: one was not played, the protocols or the seeds differ, or the baseline is
            no better than random play.
    """
    one, other = variant.played, full.played
    if one is None or other is None or one[:2] != other[:2]:
        raise InvalidInputError(
            f"report of {variant.variant}",
            f"the protocol and seeds of {full.variant}'s report",
            "different ones; evaluate both again",
        )
    scale = other.mean - random_mean
    if scale <= 0:
        raise InvalidInputError(
            f"report of {full.variant}", f"a mean above random's {random_mean:g}", f"{other.mean:g}"
        )
    ratios = (np.asarray(one.returns) - np.asarray(other.returns)) / scale
    protocol = other.protocol
    interval = mean_interval(ratios, resamples=protocol.resamples, confidence=protocol.confidence)
    return PairedDifference(float(ratios.mean()), interval.low, interval.high, margin, len(ratios))


def pareto_frontier(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the Pareto-optimal points `(cost, gain)`, by increasing cost.

    Of equal points, only the first is included.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i))
    frontier: list[int] = []
    best = -np.inf
    for index in order:
        if points[index][1] > best:
            best = points[index][1]
            frontier.append(index)
    return frontier


def _trimmed(rows: Floats) -> Floats:
    count = rows.shape[1]
    cut = count // 4
    return np.sort(rows, axis=1)[:, cut : count - cut].mean(axis=1)  # type: ignore[no-any-return]


def _bootstrap(
    values: npt.ArrayLike, statistic: Statistic, resamples: int, confidence: float
) -> Interval:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not len(sample):
        raise InvalidInputError("values", "at least one number", f"shape {sample.shape}")
    generator = np.random.default_rng(_SEED)
    estimates: list[Any] = []
    rows = max(1, _CHUNK // len(sample))
    for start in range(0, resamples, rows):
        size = (min(rows, resamples - start), len(sample))
        estimates.append(statistic(sample[generator.integers(len(sample), size=size)]))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(estimates), [tail, 1 - tail])
    return Interval(low=float(low), high=float(high))
