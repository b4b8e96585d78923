"""The order in which techniques are tried."""

from __future__ import annotations

import pytest

from slimq_compression.search.ladder import (
    CLOSE,
    EFFORTS,
    FIRST_SHARE,
    LARGEST_SHARE,
    MAX_EFFORT,
    PROBE_EFFORT,
    SEEDS,
    STEP,
    Rung,
    Terms,
    Tried,
    expected_seconds,
    first_effort,
    next_rungs,
)

TERMS = Terms(techniques=("fitted",), own=("whole",), own_codes=False, seconds=1_000.0)
INT8 = Rung("whole", form="int8")


def climb(
    smallest: float,
    terms: Terms = TERMS,
    *,
    bits: int = 4,
    full_seconds: float = 10.0,
    most: int = 60,
) -> list[Tried]:
    """Climbs where all students from a share on pass, and codes from a number of bits on."""
    tried: list[Tried] = []
    while len(tried) < most and (rung := next(next_rungs(tried, terms), None)) is not None:
        passed = not rung.trains or rung.share >= smallest
        passed &= rung.form != "codes" or rung.bits >= bits
        tried.append(Tried(rung, passed, rung.effort * full_seconds))
    return tried


def test_post_training_quantization_comes_first_and_a_short_training_next() -> None:
    rungs = [one.rung for one in climb(0.0)]
    assert rungs[0] == INT8
    assert rungs[1] == Rung("fitted", FIRST_SHARE, effort=PROBE_EFFORT)


def test_bits_fall_while_codes_pass() -> None:
    terms = Terms((), own=("whole",), own_codes=True, seconds=1_000.0)
    assert [one.rung.bits for one in climb(0.0, terms, bits=6)] == [0, 8, 6, 5]
    coded = [one.rung for one in climb(0.01, bits=7) if one.rung.form == "codes"]
    first = [rung.bits for rung in coded if rung.share == FIRST_SHARE][:2]
    assert first == [8, 6]


@pytest.mark.parametrize("smallest", [1 / 9, 1 / 40, 1 / 300, 1 / 3_000])
def test_the_share_closes_in_on_the_smallest_that_passes(smallest: float) -> None:
    tried = climb(smallest)
    passed = [one.rung.share for one in tried if one.passed and one.rung.trains]
    assert smallest <= min(passed) <= CLOSE * smallest
    failed = [one.rung for one in tried if not one.passed and one.rung.form == "fp32"]
    for share in {rung.share for rung in failed}:
        assert len({rung.seed for rung in failed if rung.share == share}) == SEEDS


def test_one_that_fails_everywhere_ends_at_the_largest_share_and_trains_longer() -> None:
    tried = climb(1.0, most=1_000)
    shares = {one.rung.share for one in tried if one.rung.trains}
    assert max(shares) == LARGEST_SHARE
    assert max(one.rung.effort for one in tried) <= MAX_EFFORT
    assert len(tried) < 100, "it ends"


def test_more_training_starts_from_the_smallest_that_passed() -> None:
    tried = climb(1 / 40, most=1_000)
    efforts = sorted({one.rung.effort for one in tried if one.rung.trains})
    assert efforts[1:] == [EFFORTS[-1] * 2**n for n in range(3)]
    small = [one.rung.share for one in tried if one.rung.effort > EFFORTS[-1]]
    assert max(small) <= 1 / 40


@pytest.mark.parametrize(
    ("full", "effort"), [(1.0, 1.0), (150.0, 0.5), (390.0, 0.25), (9_000.0, 0.1), (11_000.0, None)]
)
def test_the_first_effort_is_the_one_that_leaves_time_for_many(
    full: float, effort: float | None
) -> None:
    probe = Tried(Rung("fitted", FIRST_SHARE, effort=PROBE_EFFORT), True, PROBE_EFFORT * full)
    assert first_effort([probe], TERMS) == effort
    longer = Tried(Rung("fitted", FIRST_SHARE, effort=1.0), True, 10 * full)
    assert first_effort([probe, longer], TERMS) == effort, "later trainings do not change it"


def test_too_little_time_leaves_post_training_quantization() -> None:
    tried = climb(
        0.0, Terms(("fitted",), ("whole",), own_codes=False, seconds=1.0), full_seconds=1_000.0
    )
    assert [one.rung.effort for one in tried] == [0.0, PROBE_EFFORT]


def test_another_worker_takes_the_second_seed_and_nothing_twice() -> None:
    tried = climb(0.0, most=2)
    taken = []
    for _ in range(2):
        rung = next(next_rungs(tried, TERMS))
        tried.append(Tried(rung, None))
        taken.append(rung)
    assert taken[0] == Rung("fitted", FIRST_SHARE, "codes", 8, effort=PROBE_EFFORT)
    assert taken[1].seed == 0
    assert taken[1].share == FIRST_SHARE / STEP
    tried.append(Tried(next(next_rungs(tried, TERMS)), None))
    assert tried[-1].rung.seed == 1
    assert list(next_rungs(tried, TERMS)) == []


def test_what_cannot_be_made_is_not_tried_with_another_seed() -> None:
    tried = climb(0.0, most=3)
    impossible = Rung("fitted", FIRST_SHARE / STEP, effort=1.0)
    found = [*tried, Tried(impossible, False, 1.0, possible=False)]
    later = [rung for rung in next_rungs(found, TERMS) if rung.form == "fp32"]
    assert impossible.share not in {rung.share for rung in later}


def test_both_shapes_are_tried_and_the_one_with_the_smaller_student_goes_on() -> None:
    terms = Terms(("fitted", "narrowed"), ("whole",), own_codes=False, seconds=1_000.0)
    tried = climb(0.0, terms, most=8)
    assert {one.rung.technique for one in tried} == {"whole", "fitted", "narrowed"}


def test_other_forms_of_a_training_cost_no_training() -> None:
    trained = Tried(Rung("fitted", 0.01, effort=0.5), True, 30.0)
    assert expected_seconds(Rung("fitted", 0.01, "codes", 5, effort=0.5), [trained]) == 0.0
    assert expected_seconds(Rung("fitted", 0.02, effort=1.0), [trained]) == 60.0
    assert expected_seconds(INT8, [trained]) == 0.0
