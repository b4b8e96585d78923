"""The choice among variants, on comparisons made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from slimq.core.errors import InvalidInputError
from slimq.core.statistics import PairedDifference
from slimq.evaluation.comparison import Comparison, ComparisonRow, LatencyRow
from slimq.evaluation.recommendation import Criteria, recommend, resolve_goal


def row(
    variant: str,
    size: int,
    *,
    p50: float | None = 10.0,
    mean: float | None = 100.0,
    low: float | None = 0.0,
    faster: float | None = 1.0,
    **changes: Any,
) -> ComparisonRow:
    difference = None if low is None else PairedDifference(low, low, 0.1, 0.02, 20)
    latency = () if p50 is None else (LatencyRow("alone", 1, p50, faster),)
    values: dict[str, Any] = {
        "variant": variant,
        "bytes": size,
        "smaller": 1000 / size,
        "parameters": 1,
        "nonzero_parameters": 1,
        "macs": 1,
        "mean": mean,
        "interval": None,
        "iqm": mean,
        "distinct_trajectories": 20,
        "difference": difference,
        "fidelity": None,
        "latency": latency,
        "notes": (),
    }
    return ComparisonRow(**(values | changes))


def compare(*rows: ComparisonRow, failed: dict[str, str] | None = None) -> Comparison:
    return Comparison("tiny", "fp32", 0.0, None, "test", rows, failed or {})


FP32 = row("fp32", 1000, p50=20.0)


def reasons(found: Any) -> dict[str, str]:
    return {one.variant: "; ".join(one.reasons) for one in found.rejected}


def test_without_limits_the_smallest_non_inferior_variant_is_chosen() -> None:
    comparison = compare(FP32, row("int8", 400, low=-0.01), row("int4", 200, low=-0.05))
    found = recommend(comparison, Criteria())
    assert found.choice is not None
    assert found.choice.variant == "int8"
    assert (found.choice.smaller, found.choice.latency_us) == (2.5, 10.0)
    assert [one.variant for one in found.runners_up] == ["fp32"]
    assert reasons(found) == {
        "int4": "undisturbed, the lower bound of -5.00% is 3.00% below the margin of -2.00%"
    }
    assert found.nearest is None


@pytest.mark.parametrize(
    ("margin", "choice"), [(0.0, "fp32"), (0.02, "int8"), (0.0499, "int8"), (0.05, "int4")]
)
def test_the_requested_margin_decides_not_the_comparisons(margin: float, choice: str) -> None:
    comparison = compare(FP32, row("int8", 400, low=-0.02), row("int4", 200, low=-0.05))
    found = recommend(comparison, Criteria(margin=margin)).choice
    assert found is not None
    assert found.variant == choice


@pytest.mark.parametrize(
    ("limits", "goal"),
    [
        ({}, "bytes"),
        ({"max_bytes": 9}, "latency"),
        ({"max_latency_us": 9.0}, "bytes"),
        ({"max_bytes": 9, "max_latency_us": 9.0}, "bytes"),
        ({"max_latency_us": 9.0, "goal": "latency"}, "latency"),
    ],
)
def test_the_cost_without_a_limit_is_minimised_by_default(
    limits: dict[str, Any], goal: str
) -> None:
    assert resolve_goal(Criteria(**limits)) == goal


def test_with_a_limit_on_bytes_the_fastest_is_chosen() -> None:
    comparison = compare(FP32, row("small", 100, p50=15.0), row("fast", 500, p50=5.0))
    found = recommend(comparison, Criteria(max_bytes=600))
    assert found.choice is not None
    assert found.choice.variant == "fast"
    assert reasons(found) == {"fp32": "1,000 bytes exceeds 600 by 400 (66.7%)"}


def test_with_a_limit_on_latency_the_smallest_is_chosen() -> None:
    comparison = compare(FP32, row("small", 100, p50=15.0), row("fast", 500, p50=5.0))
    found = recommend(comparison, Criteria(max_latency_us=15.0))
    assert found.choice is not None
    assert found.choice.variant == "small"
    assert reasons(found) == {
        "fp32": "p50 alone at batch 1, 20 µs, exceeds 15 µs by 5.00 µs (33.3%)"
    }


def test_a_tie_goes_to_the_higher_return_and_then_to_the_other_cost() -> None:
    comparison = compare(
        FP32,
        row("lower", 400, mean=99.0, p50=1.0),
        row("slow", 400, p50=12.0),
        row("quick", 400, p50=11.0),
    )
    found = recommend(comparison, Criteria())
    assert found.choice is not None
    order = [found.choice.variant, *(one.variant for one in found.runners_up)]
    assert order == ["quick", "slow", "lower", "fp32"]


def test_the_minimum_return_is_enforced() -> None:
    comparison = compare(FP32, row("int8", 400, mean=98.5))
    found = recommend(comparison, Criteria(min_return=99))
    assert found.choice is not None
    assert found.choice.variant == "fp32"
    assert reasons(found) == {"int8": "mean return 98.50 is 0.50 below 99"}


def test_without_evidence_a_variant_is_not_eligible_and_says_what_is_missing() -> None:
    notes = {"notes": ("not evaluated: run slimq evaluate tiny",)}
    comparison = compare(
        FP32,
        row("new", 10, mean=None, low=None, p50=None, **notes),
        row("old", 11, stale=True, notes=("made from another checkpoint",)),
        row("alone", 12, low=None),
        failed={"broken": "tiny/broken: is missing"},
    )
    found = recommend(comparison, Criteria())
    assert found.choice is not None
    assert found.choice.variant == "fp32"
    assert reasons(found) == {
        "broken": "tiny/broken: is missing",
        "new": "not evaluated: run slimq evaluate tiny",
        "old": "made from another checkpoint",
        "alone": "its returns cannot be paired with a report of the baseline",
    }
    assert {one.excess for one in found.rejected} == {None}


def test_latency_counts_only_if_requested() -> None:
    comparison = compare(FP32, row("int8", 400, p50=None))
    chosen = recommend(comparison, Criteria()).choice
    assert chosen is not None
    assert (chosen.variant, chosen.latency_us) == ("int8", None)
    limited = recommend(comparison, Criteria(max_latency_us=30.0))
    assert limited.choice is not None
    assert limited.choice.variant == "fp32"
    assert reasons(limited) == {"int8": "no alone latency at batch 1 was measured"}


def test_the_requested_mode_and_batch_count() -> None:
    latency = (LatencyRow("alone", 1, 5.0, 1.0), LatencyRow("interleaved", 8, 50.0, 1.0))
    comparison = compare(row("fp32", 1000, latency=latency))
    found = recommend(comparison, Criteria(mode="interleaved", batch=8, max_latency_us=40.0))
    assert found.choice is None
    assert "p50 interleaved at batch 8, 50 µs, exceeds 40 µs" in reasons(found)["fp32"]


def test_latency_of_another_run_is_not_ranked_but_may_meet_a_limit() -> None:
    comparison = compare(FP32, row("int8", 400, p50=5.0, faster=None))
    ranked = recommend(comparison, Criteria(goal="latency"))
    assert ranked.choice is not None
    assert ranked.choice.variant == "fp32"
    assert "from another run" in reasons(ranked)["int8"]
    limited = recommend(comparison, Criteria(max_latency_us=6.0))
    assert limited.choice is not None
    assert limited.choice.variant == "int8"


def test_if_nothing_fits_the_smallest_of_the_worst_misses_is_the_nearest() -> None:
    comparison = compare(
        FP32, row("int8", 110, low=-0.5), row("int4", 120, low=-0.03), row("int2", 1, low=None)
    )
    found = recommend(comparison, Criteria(max_bytes=100, max_latency_us=30.0))
    assert found.choice is None
    assert found.nearest is not None
    assert (found.nearest.variant, found.nearest.excess) == ("int4", pytest.approx(0.2))
    assert len(found.nearest.reasons) == 2


def test_without_any_evidence_there_is_no_nearest() -> None:
    found = recommend(compare(row("fp32", 10, low=None)), Criteria())
    assert (found.choice, found.nearest) == (None, None)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"margin": -0.1}, "margin: expected a share from 0 to below 1, received -0.1"),
        ({"margin": float("nan")}, "margin: expected a share from 0 to below 1, received nan"),
        ({"batch": 0}, "batch: expected at least 1, received 0"),
        ({"min_return": float("inf")}, "min_return: expected a finite number, received inf"),
    ],
)
def test_an_impossible_criterion_is_refused_by_name(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        Criteria(**values)
