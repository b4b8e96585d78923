"""Tests which differences between variants exceed the noise.

Blocks of load on one machine are not independent: clock speeds, caches and other processes cause
slow stretches over many blocks, and latencies have heavy tails. A t-test over requests would call
almost everything real. The one thing certain to be random is the order of the variants within a
round, because it was drawn. If a variant is the same as the baseline, the logarithm of their ratio
in a round is symmetric about zero, whatever the noise: under that hypothesis its sign is a fair
coin, which is all that Wilcoxon's signed-rank test assumes (Fisher 1935, "The Design of
Experiments", chapter 3; Wilcoxon 1945, "Individual Comparisons by Ranking Methods").

The interval is the inverse of the test, from the ordered means of pairs (Hodges & Lehmann 1963,
"Estimates of Location Based on Rank Tests"; Hollander, Wolfe & Chicken, "Nonparametric Statistical
Methods", 3rd ed., section 3.3), with the exact distribution of the rank sum. The error rate is
divided by the number of comparisons (Bonferroni): with `ERROR_RATE` 0.01, at most one load test in
a hundred reports any difference where there is none. A difference is real if its interval does not
contain 1, so table and verdict cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from slimq.loadtest.plan import ERROR_RATE, STATISTICS, Mode, Plan
from slimq.loadtest.recording import Recording, Sample

MAX_LOST_SHARE = 0.001
"""Above this share of lost requests, latencies are not judged and a rate is not sustained."""
LATENCIES = ("p10", "p50", "p99")


@dataclass(frozen=True)
class Difference:
    """A variant compared with the baseline in one statistic.

    Attributes:
        mode: load mode.
        statistic: the statistic compared.
        label: label of the variant.
        ratio: variant over baseline, Hodges-Lehmann estimate over the rounds.
        low: lower end of the confidence interval; None, like `high`, if there are too few rounds.
        high: upper end of the confidence interval.
        rounds: number of paired rounds.
        unjudged: reason why there is no verdict despite enough rounds; None otherwise.
    """

    mode: Mode
    statistic: str
    label: str
    ratio: float
    low: float | None
    high: float | None
    rounds: int
    unjudged: str | None = None

    @property
    def real(self) -> bool | None:
        """Whether it exceeds the noise; None if not tested or not judged."""
        if self.low is None or self.high is None or self.unjudged is not None:
            return None
        return not self.low <= 1.0 <= self.high


def find_differences(recording: Recording, plan: Plan) -> list[Difference]:
    """Makes every comparison of the plan for which there are measurements.

    Latencies and processor times cover answered requests only. If either side lost more than
    `MAX_LOST_SHARE` of its requests in a mode, or has a round without a latency, the missing ones
    may be the slowest, and there is no verdict.
    """
    error = ERROR_RATE / max(1, plan.comparisons)
    found = []
    for mode in plan.modes:
        for subject in plan.subjects:
            if subject.label == plan.baseline:
                continue
            for statistic in STATISTICS[mode]:
                sides = recording.of(mode, plan.baseline), recording.of(mode, subject.label)
                base, ours = (_by_round(samples, statistic) for samples in sides)
                rounds = sorted(base.keys() & ours.keys())
                if rounds:
                    logs = np.log([ours[number] / base[number] for number in rounds])
                    tested = plan.order == "interleaved"
                    difference = _compare(mode, statistic, subject.label, logs, error, tested)
                    found.append(replace(difference, unjudged=_unjudged_reason(statistic, *sides)))
    return found


def lost_share(samples: Sequence[Sample]) -> float:
    """Share of all due requests that were not answered with status 200."""
    due = sum(sample.sent + sample.dropped for sample in samples)
    return sum(sample.lost for sample in samples) / max(1, due)


def as_percent(share: float) -> str:
    """Formats a share as a percentage, to three digits."""
    return f"{100 * share:.3g} %"


def signed_rank_interval(
    values: npt.ArrayLike, error: float
) -> tuple[float, tuple[float, float] | None]:
    """Hodges-Lehmann estimate of the centre of symmetric values, with its confidence interval.

    Args:
        values: `(n,)`.
        error: maximum probability that the interval misses the centre.

    Returns:
        The centre and the interval; the interval is None if there are too few values for one.
    """
    sample = np.asarray(values, np.float64)
    first, second = np.triu_indices(len(sample))
    means = np.sort((sample[first] + sample[second]) / 2)
    centre = float(np.median(means))
    cut = int(np.searchsorted(_rank_sums(len(sample)), error / 2, side="right"))
    if cut == 0:
        return centre, None
    return centre, (float(means[cut - 1]), float(means[-cut]))


def _by_round(samples: Sequence[Sample], statistic: str) -> dict[int, float]:
    values = {sample.number: sample.statistic(statistic) for sample in samples}
    return {number: value for number, value in values.items() if value is not None}


def _unjudged_reason(statistic: str, base: Sequence[Sample], ours: Sequence[Sample]) -> str | None:
    if statistic == "throughput":
        return None
    lost = max(lost_share(base), lost_share(ours))
    if lost > MAX_LOST_SHARE:
        return f"{as_percent(lost)} lost"
    both = {sample.number for sample in base} & {sample.number for sample in ours}
    empty = {
        sample.number
        for sample in (*base, *ours)
        if sample.number in both and sample.statistic(statistic) is None
    }
    if statistic in LATENCIES and empty:
        return f"rounds without a latency: {len(empty)}"
    return None


def _compare(
    mode: Mode,
    statistic: str,
    label: str,
    logs: npt.NDArray[np.float64],
    error: float,
    tested: bool,
) -> Difference:
    centre, interval = signed_rank_interval(logs, error)
    low, high = (None, None)
    if tested and interval is not None:
        low, high = (math.exp(end) for end in interval)
    return Difference(mode, statistic, label, math.exp(centre), low, high, len(logs))


def _rank_sums(count: int) -> npt.NDArray[np.float64]:
    """Probabilities that the sum of positive ranks is at most 0, 1, 2, …, if signs are fair."""
    chances = np.zeros(count * (count + 1) // 2 + 1)
    chances[0] = 1.0
    for rank in range(1, count + 1):
        shifted = np.zeros_like(chances)
        shifted[rank:] = chances[:-rank]
        chances = (chances + shifted) / 2
    sums: npt.NDArray[np.float64] = np.cumsum(chances)
    return sums
