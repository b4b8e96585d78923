"""Whether verdicts can be trusted: none where nothing differs, one where 10 % does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slimq.evaluation.loadtest.analysis import Difference, find_differences

RUNS, MOST_FALSE = 20, 1
SLOWED_RUNS, LEAST_FOUND = 10, 9
SHARE = 0.1
SHORT = {"modes": ("closed",), "connections": 1, "warm_seconds": 0.3, "rounds": 44, "seconds": 0.15}
"""What both are measured with, so that the one cannot be had at the cost of the other."""


@pytest.mark.slow
def test_a_variant_against_itself_differs_in_one_run_of_twenty_at_most(
    slowed: Any, twins: Path, measure: Any
) -> None:
    """Two runs of twenty differ once in sixty times as promised: only twice in a row is wrong."""
    url = slowed(0.0)
    wrong = []
    for first in (0, RUNS):
        runs = []
        for seed in range(first, first + RUNS):
            plan, recording = measure(url, twins, "pong", ["fp32", "fp32"], seed=seed, **SHORT)
            runs.append(find_differences(recording, plan))
        assert all(len(run) == 5 for run in runs)
        assert all(difference.real is not None for run in runs for difference in run)
        false = [run for run in runs if any(difference.real for difference in run)]
        if len(false) <= MOST_FALSE:
            return
        wrong += false
    pytest.fail(str([show(run) for run in wrong]))


@pytest.mark.slow
def test_a_service_slowed_by_a_tenth_is_found_in_nine_of_ten(
    slowed: Any, twins: Path, measure: Any
) -> None:
    url = slowed(SHARE)
    missed = []
    for seed in range(SLOWED_RUNS):
        plan, recording = measure(url, twins, "pong", ["fp32", "same"], seed=seed, **SHORT)
        run = find_differences(recording, plan)
        slower = [d for d in run if d.real and (d.ratio < 1) == (d.statistic == "throughput")]
        if not slower:
            missed.append(run)
    assert SLOWED_RUNS - len(missed) >= LEAST_FOUND, [show(run) for run in missed]


def show(run: list[Difference]) -> list[str]:
    return [f"{d.statistic} {d.ratio:.3f} ({d.low:.3f} to {d.high:.3f})" for d in run]
