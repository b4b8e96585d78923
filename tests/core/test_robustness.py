from __future__ import annotations

import numpy as np
import pytest

from layouts import LAYOUTS
from slimq.core.conditions.catalogue import Condition, standard_conditions
from slimq.core.errors import InvalidInputError
from slimq.core.report import ConditionReport, Interval
from slimq.core.robustness import (
    CONDITION_MARGIN,
    MAX_OWN_LOSS,
    MIN_EPISODES,
    judge_robustness,
)
from slimq.core.statistics import MARGIN, mean_interval

VECTOR = LAYOUTS["unbounded vector"]
STANDARD = standard_conditions(VECTOR)
FULL = np.array([100.0, 104.0] * 10)
RANDOM = 2.0
SCALE = FULL.mean() - RANDOM
OTHERWISE = "noise=0.01 was played with other settings than by fp32: evaluate both again"


def under(condition, returns, **changes):
    values = {
        "condition": condition,
        "returns": list(returns),
        "distinct_trajectories": len(returns),
        "mean": float(np.mean(returns)),
        "interval": Interval(low=float(min(returns)), high=float(max(returns))),
    }
    return ConditionReport(**(values | changes))


@pytest.fixture
def judge(make_report):
    """Judges a variant by its returns under each condition, and undisturbed; 100 is 100 %."""

    def judge(variant, full, *, undisturbed=FULL, random_mean=RANDOM, observation=VECTOR):
        reports = [
            make_report(name, returns).model_copy(update={"conditions": tuple(conditions)})
            for name, returns, conditions in (("other", undisturbed, variant), ("fp32", FULL, full))
        ]
        return judge_robustness(*reports, observation, random_mean)

    return judge


def alike(returns=FULL, conditions=STANDARD):
    return [under(condition, returns) for condition in conditions]


def spread_around(mean):
    """Returns that vary from episode to episode, with this mean."""
    offsets = np.array([-30.0, -10, 10, 30] * 5)
    return FULL + offsets - (FULL + offsets).mean() + mean


def test_what_loses_nothing_anywhere_is_robust(judge):
    found = judge(alike(), alike())
    assert found.robust is True
    assert found.missing == found.failed == ()
    assert [r.condition for r in found.results] == list(STANDARD)
    for result in found.results:
        assert result.standard
        assert result.non_inferior is True
        assert result.full_loss == 0
        assert (result.mean, result.full_mean, result.episodes) == (102, 102, 20)
        assert (result.difference.low, result.difference.high) == (0, 0)
        assert result.difference.margin == CONDITION_MARGIN


@pytest.mark.parametrize("place", range(len(STANDARD)))
def test_one_condition_that_falls_is_enough(judge, place):
    fallen = alike()
    fallen[place] = under(STANDARD[place], FULL - 0.06 * SCALE)
    found = judge(fallen, alike())
    assert found.robust is False
    assert [r.condition for r in found.failed] == [STANDARD[place]]


@pytest.mark.parametrize(("share", "kept"), [(0.049, True), (0.051, False)])
def test_the_margin_is_a_share_of_what_the_full_policy_gains_undisturbed(judge, share, kept):
    assert CONDITION_MARGIN == 0.05
    disturbed = FULL - 40
    found = judge(alike(disturbed - share * SCALE), alike(disturbed))
    assert found.robust is kept
    assert found.results[0].difference.mean == pytest.approx(-share)


def test_bounds_are_corrected_for_the_number_of_standard_conditions(judge):
    variant = spread_around(101)
    found = judge(alike(variant), alike())
    ratios = (variant - FULL) / SCALE
    for result in found.results:
        expected = mean_interval(ratios, resamples=2_000, confidence=1 - 0.05 / 5)
        assert (result.difference.low, result.difference.high) == (expected.low, expected.high)
    alone = mean_interval(ratios, resamples=2_000, confidence=0.95)
    assert result.difference.low < alone.low < alone.high < result.difference.high


def test_fewer_standard_conditions_need_less_correction(judge):
    flags = LAYOUTS["flags"]
    few = standard_conditions(flags)
    variant = spread_around(101)
    found = judge(alike(variant, few), alike(conditions=few), observation=flags)
    expected = mean_interval((variant - FULL) / SCALE, resamples=2_000, confidence=1 - 0.05 / 3)
    assert len(few) == 3
    assert found.results[0].difference.low == expected.low


def test_a_variant_that_falls_undisturbed_is_not_robust(judge):
    worse = FULL - (MARGIN + 0.01) * SCALE
    assert judge(alike(), alike(), undisturbed=worse).robust is False
    assert judge([], [], undisturbed=worse).robust is False


@pytest.mark.parametrize(("loss", "decides"), [(0.49, True), (0.51, False), (1.1, False)])
def test_where_the_full_policy_has_lost_more_than_half_nothing_is_decided(judge, loss, decides):
    assert MAX_OWN_LOSS == 0.5
    hard = STANDARD[2]
    variant, full = alike(), alike()
    full[2] = under(hard, FULL - loss * SCALE)
    variant[2] = under(hard, FULL - (loss + 0.3) * SCALE)
    found = judge(variant, full)
    result = found.results[2]
    assert result.full_loss == pytest.approx(loss)
    assert result.decides is decides
    assert result.difference.mean == pytest.approx(-0.3)
    assert result.non_inferior is (False if decides else None)
    assert found.robust is (not decides)
    assert found.missing == ()


@pytest.mark.parametrize("place", range(len(STANDARD)))
def test_a_condition_that_was_not_played_leaves_the_answer_open(judge, place):
    some = alike()
    del some[place]
    found = judge(some, alike())
    assert found.robust is None
    assert found.missing == (STANDARD[place],)
    assert len(found.results) == len(STANDARD) - 1
    assert judge([], alike()).missing == STANDARD


def test_what_failed_has_failed_even_if_another_condition_is_missing(judge):
    some = [under(STANDARD[0], FULL - 50)]
    found = judge(some, alike())
    assert found.robust is False
    assert len(found.missing) == len(STANDARD) - 1


@pytest.mark.parametrize(
    ("full", "note"),
    [
        ([], "fp32 was not played under noise=0.01"),
        ([under(STANDARD[0], FULL, spread=[1.0])], OTHERWISE),
        ([under(STANDARD[0], FULL, code_sha256="c" * 64)], OTHERWISE),
    ],
)
def test_what_cannot_be_paired_is_noted_and_counts_as_missing(judge, full, note):
    found = judge(alike(), [*full, *alike()[1:]])
    result = found.results[0]
    assert result.note == note
    assert (result.mean, result.episodes) == (102, 20)
    assert result.full_mean is result.full_loss is result.difference is result.non_inferior is None
    assert result.decides is False
    assert found.missing == (STANDARD[0],)
    assert found.robust is None


@pytest.mark.parametrize(("played", "by_full"), [(40, 20), (20, 40), (40, 19), (19, 40)])
def test_the_episodes_that_both_have_played_are_compared(judge, played, by_full):
    few, longer = STANDARD[1], np.concatenate((FULL, FULL - 50))
    variant, full = alike(), alike()
    variant[1] = under(few, longer[:played] - 0.01 * SCALE)
    full[1] = under(few, longer[:by_full])
    result = judge(variant, full).results[1]
    pairs = min(played, by_full)
    assert result.difference.mean == pytest.approx(-0.01)
    assert (result.difference.episodes, result.episodes) == (pairs, played)
    assert result.full_mean == pytest.approx(longer[:by_full].mean())
    assert result.decides is (pairs >= MIN_EPISODES)


def test_other_conditions_follow_the_standard_ones_and_decide_nothing(judge):
    extra = [Condition(name="noise", strength=0.5), Condition(name="a.py:fog", strength=1)]
    variant = [under(condition, FULL - 60) for condition in extra] + alike()[::-1]
    found = judge(variant, alike(conditions=[*STANDARD, *extra]))
    assert [r.condition for r in found.results] == [*STANDARD, *extra]
    assert [r.standard for r in found.results] == [True] * 5 + [False] * 2
    assert found.results[-1].non_inferior is False
    assert found.failed == ()
    assert found.robust is True


@pytest.mark.parametrize("count", [1, MIN_EPISODES - 1, MIN_EPISODES])
@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_too_few_episodes_of_a_condition_decide_nothing(judge, count, loss):
    few = STANDARD[1]
    variant, full = alike(), alike()
    variant[1] = under(few, FULL[:count] - loss * SCALE)
    full[1] = under(few, FULL[:count])
    found = judge(variant, full)
    enough = count >= MIN_EPISODES
    assert found.results[1].difference.mean == pytest.approx(-loss)
    assert found.results[1].decides is enough
    assert found.results[1].non_inferior is ((loss == 0) if enough else None)
    assert found.missing == (() if enough else (few,))
    assert found.robust is ((loss == 0) if enough else None)


def test_where_no_condition_decides_nothing_is_called_robust(judge):
    lost = FULL - 0.6 * SCALE
    found = judge(alike(lost), alike(lost))
    assert found.missing == found.failed == ()
    assert found.decided is False
    assert found.robust is None
    worse = FULL - (MARGIN + 0.01) * SCALE
    assert judge(alike(lost), alike(lost), undisturbed=worse).robust is False


def test_the_full_policys_own_loss_is_over_the_same_seeds(judge):
    first = FULL[:1]
    found = judge(alike(first), alike(first))
    assert {result.full_loss for result in found.results} == {0.0}
    assert {result.episodes for result in found.results} == {1}


def test_more_episodes_than_undisturbed_are_compared_with_all_of_those(judge):
    many = np.concatenate([FULL, FULL - 30])
    found = judge(alike(many), alike(many))
    assert found.results[0].full_loss == pytest.approx(15 / SCALE)
    assert found.robust is True


def test_the_full_policy_has_to_be_better_than_random_play(judge):
    with pytest.raises(InvalidInputError, match=r"fp32: expected a mean above random's 102"):
        judge(alike(), alike(), random_mean=102)
