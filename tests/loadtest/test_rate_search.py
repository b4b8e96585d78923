"""How a sweep finds the highest rate that is held, whatever the machine did the sweep before."""

from __future__ import annotations

import pytest

from slimq.loadtest.rate_search import CAP, Sweep


def climb(sweep: Sweep, limit: float, *, unlucky: tuple[int, ...] = ()) -> list[float]:
    """The rates it asks for, of a service that holds up to a limit; some steps miss anyway."""
    asked: list[float] = []
    while sweep.ending is None:
        asked.append(sweep.rate)
        held = sweep.rate <= limit and len(asked) - 1 not in unlucky
        sweep.record(None if held else "p99")
        assert len(asked) < 100
    return asked


def test_it_rises_until_two_in_a_row_are_not_held() -> None:
    sweep = Sweep(begin=100, factor=2, fall=2, floor=100, top=1e6)
    assert climb(sweep, 450) == [100, 200, 400, 800, 1600]
    assert (sweep.sustained, sweep.ending) == (400, "p99")


def test_one_miss_is_bad_luck() -> None:
    sweep = Sweep(begin=100, factor=2, fall=2, floor=100, top=1e6)
    assert climb(sweep, 450, unlucky=(1,)) == [100, 200, 400, 800, 1600]
    assert sweep.sustained == 400


def test_where_it_began_too_high_it_descends_to_the_first_that_is_held() -> None:
    """The machine is slower than in the sweep before: 0 would be no rate that anybody measured."""
    sweep = Sweep(begin=1000, factor=1.1, fall=1.5, floor=100, top=1e6)
    assert climb(sweep, 350) == [1000, 1100, 667, 444, 296]
    assert (sweep.sustained, sweep.ending) == (pytest.approx(1000 / 1.5**3), "p99")


def test_at_the_floor_nothing_lower_is_tried() -> None:
    sweep = Sweep(begin=300, factor=2, fall=2, floor=100, top=1e6)
    assert climb(sweep, 50) == [300, 600, 150, 100]
    assert (sweep.sustained, sweep.ending) == (0, "p99")
    first = Sweep(begin=100, factor=2, fall=2, floor=100, top=1e6)
    assert climb(first, 50) == [100, 200]
    assert (first.sustained, first.ending) == (0, "p99")


def test_what_still_holds_at_the_top_is_capped() -> None:
    sweep = Sweep(begin=100, factor=2, fall=2, floor=100, top=500)
    assert climb(sweep, 1e9) == [100, 200, 400]
    assert (sweep.sustained, sweep.ending) == (400, CAP)
    missed = Sweep(begin=100, factor=2, fall=2, floor=100, top=500)
    assert climb(missed, 300) == [100, 200, 400]
    assert (missed.sustained, missed.ending) == (200, "p99")


def test_a_begin_that_is_the_top_descends_as_well() -> None:
    sweep = Sweep(begin=400, factor=2, fall=2, floor=100, top=500)
    assert climb(sweep, 150) == [400, 200, 100]
    assert (sweep.sustained, sweep.ending) == (100, "p99")
