from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from slimq.core.errors import InvalidInputError
from slimq.core.statistics import (
    interquartile_interval,
    interquartile_mean,
    mean_interval,
    paired_difference,
    pareto_frontier,
)

VALUES = np.random.default_rng(0).normal(10, 3, size=80)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 80])
def test_the_interquartile_mean_is_the_mean_trimmed_by_a_quarter(count):
    expected = scipy.stats.trim_mean(VALUES[:count], 0.25)
    assert interquartile_mean(VALUES[:count]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("interval", "statistic"),
    [(mean_interval, np.mean), (interquartile_interval, lambda x: scipy.stats.trim_mean(x, 0.25))],
)
def test_intervals_agree_with_scipy(interval, statistic):
    ours = interval(VALUES)
    theirs = scipy.stats.bootstrap(
        (VALUES,),
        statistic,
        n_resamples=10_000,
        method="percentile",
        vectorized=False,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.05)
    assert ours.high == pytest.approx(theirs.high, abs=0.05)


def test_intervals_depend_only_on_the_values():
    assert mean_interval(VALUES) == mean_interval(list(VALUES))
    assert mean_interval(VALUES, resamples=100) != mean_interval(VALUES)


def test_equal_values_have_an_interval_of_zero_width():
    interval = mean_interval([500.0] * 100)
    assert (interval.low, interval.high) == (500.0, 500.0)


def test_no_values_are_refused():
    with pytest.raises(InvalidInputError, match="values: expected at least one number"):
        mean_interval([])


def test_the_paired_difference_is_a_share_of_full_minus_random(make_report):
    full = make_report("fp32", [100.0, 120.0] * 20)
    variant = make_report("other", [99.0, 119.0] * 20)
    difference = paired_difference(variant, full, random_mean=10.0)
    assert difference.mean == pytest.approx(-0.01)
    assert difference.low == pytest.approx(-0.01)
    assert difference.high == pytest.approx(-0.01)
    assert difference.episodes == 40
    assert difference.non_inferior


def test_a_loss_beyond_the_margin_is_inferior(make_report):
    full = make_report("fp32", [100.0, 120.0] * 20)
    difference = paired_difference(make_report("other", [97.0, 117.0] * 20), full, 10.0)
    assert difference.low < -0.02
    assert not difference.non_inferior


def test_a_mean_without_loss_is_not_enough_if_the_interval_is_wide(make_report):
    full = make_report("fp32", [100.0] * 40)
    difference = paired_difference(make_report("other", [60.0, 140.0] * 20), full, 10.0)
    assert difference.mean == pytest.approx(0.0)
    assert not difference.non_inferior


def test_the_baseline_against_itself_is_zero(make_report):
    full = make_report("fp32", list(VALUES))
    difference = paired_difference(full, full, random_mean=0.0)
    assert (difference.mean, difference.low, difference.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("changes", [{"epsilon": 0.05}, {"returns": [1.0, 2.0, 3.0]}])
def test_reports_of_different_protocols_are_not_compared(make_report, changes):
    full = make_report("fp32", [100.0, 120.0])
    variant = make_report("other", **({"returns": [100.0, 120.0]} | changes))
    with pytest.raises(InvalidInputError, match="report of other: expected the protocol"):
        paired_difference(variant, full, 10.0)


def test_a_baseline_no_better_than_random_is_refused(make_report):
    full = make_report("fp32", [100.0, 120.0])
    with pytest.raises(InvalidInputError, match="report of fp32: expected a mean above random's"):
        paired_difference(full, full, random_mean=110.0)


def test_the_frontier_is_the_points_that_no_other_dominates():
    points = [(10.0, 5.0), (5.0, 5.0), (1.0, 1.0), (7.0, 4.0), (20.0, 9.0), (5.0, 5.0)]
    assert pareto_frontier(points) == [2, 1, 4]
    assert pareto_frontier([]) == []
