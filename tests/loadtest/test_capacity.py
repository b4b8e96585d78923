from __future__ import annotations

from typing import Any

import pytest

from load_samples import make_plan, make_sample
from slimq.loadtest.capacity import find_capacities, find_shortfall
from slimq.loadtest.recording import Recording, Sample


def step(label: str, sweep: int, rate: float, p99_us: float, **values: Any) -> Sample:
    return make_sample(label, sweep, mode="steps", rate=rate, p99_us=p99_us, **values)


def test_the_ceiling_is_the_highest_rate_of_each_sweep_that_held() -> None:
    plan = make_plan(["fp32", "int8"], modes=("steps",), p99_us=5000.0)
    recording = Recording()
    for sweep, (base, other) in enumerate([(100.0, 300.0), (120.0, 240.0), (110.0, 330.0)]):
        for label, best in (("fp32", base), ("int8", other)):
            recording.samples += [
                step(label, sweep, best / 2, 1000.0),
                step(label, sweep, best * 0.9, 9000.0),
                step(label, sweep, best, 5000.0),
                step(label, sweep, best * 2, 5001.0),
            ]
            recording.endings[label, sweep] = "p99"
    base, other = find_capacities(recording, plan)
    assert (base.rates, base.rate, base.ratio) == ((100.0, 120.0, 110.0), 110.0, None)
    assert (other.rate, other.ratio, other.low, other.high) == (300.0, 3.0, 2.0, 3.0)
    assert (other.ended, other.capped) == ("p99", False)


def test_a_variant_that_held_no_rate_has_a_ceiling_of_zero() -> None:
    plan = make_plan(["fp32", "int8"], modes=("steps",), p99_us=5000.0)
    recording = Recording(
        samples=[step("fp32", 0, 100.0, 9000.0), step("int8", 0, 100.0, 100.0)],
        endings={("fp32", 0): "p99", ("int8", 0): "cap"},
    )
    base, other = find_capacities(recording, plan)
    assert (base.rate, base.ended, base.capped) == (0.0, "p99", False)
    assert (other.rate, other.ratio, other.ended) == (100.0, None, "cap")


def test_a_sweep_in_which_a_side_held_nothing_has_no_ratio() -> None:
    plan = make_plan(["fp32", "int8"], modes=("steps",), p99_us=5000.0)
    recording = Recording()
    for sweep, (base, other) in enumerate([(100.0, 200.0), (9000.0, 200.0), (100.0, 9000.0)]):
        for label, rate in (("fp32", base), ("int8", other)):
            recording.samples.append(step(label, sweep, rate, rate))
            recording.endings[label, sweep] = "p99"
    base, other = find_capacities(recording, plan)
    assert (base.rates, other.rates) == ((100.0, 0.0, 100.0), (200.0, 200.0, 0.0))
    assert (other.ratio, other.low, other.high) == (2.0, 2.0, 2.0)


def test_a_sweep_that_was_cut_short_is_no_result_where_another_is() -> None:
    """An interrupt in the second sweep, and one in the first."""
    plan = make_plan(["fp32", "int8"], modes=("steps",), p99_us=5000.0)
    recording = Recording()
    for label, rate in (("fp32", 100.0), ("int8", 200.0)):
        recording.samples += [step(label, 0, rate / 2, 90.0), step(label, 0, rate, 90.0)]
    first = find_capacities(recording, plan)
    assert [(c.rate, c.ended, c.capped, c.ratio) for c in first] == [
        (100.0, None, True, None),
        (200.0, None, True, None),
    ]
    recording.endings = {("fp32", 0): "p99"}
    _, other = find_capacities(recording, plan)
    assert (other.rate, other.ended, other.ratio, other.bound) == (200.0, None, 2.0, ">=")
    recording.endings = {("fp32", 0): "p99", ("int8", 0): "p99"}
    recording.samples += [step("fp32", 1, 25.0, 90.0), step("int8", 1, 50.0, 90.0)]
    _, other = find_capacities(recording, plan)
    assert (other.rates, other.ended, other.ratio, other.bound) == ((200.0,), "p99", 2.0, "")


@pytest.mark.parametrize(
    ("capped", "ratio", "bounds"),
    [
        ({("int8", 1)}, 2.0, ("", ">=")),
        ({("fp32", 0)}, 2.0, ("", "<=")),
        ({("fp32", 1), ("int8", 1)}, None, ("", "")),
    ],
)
def test_a_rate_past_which_nothing_was_tried_is_a_bound(
    capped: set[tuple[str, int]], ratio: float | None, bounds: tuple[str, str]
) -> None:
    plan = make_plan(["fp32", "int8"], modes=("steps",), p99_us=5000.0)
    recording = Recording()
    for sweep in range(2):
        for label, rate in (("fp32", 100.0), ("int8", 200.0)):
            recording.samples.append(step(label, sweep, rate, 90.0))
            key = label, sweep
            recording.endings[key] = "cap" if key in capped else "dropped"
    base, other = find_capacities(recording, plan)
    assert (other.rate, other.ratio) == (200.0, ratio)
    assert (base.bound, other.bound) == bounds
    for found in (base, other):
        assert found.capped == (found.label in {label for label, _ in capped})
        assert found.ended == ("cap" if (found.label, 1) in capped else "dropped")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, None),
        ({"dropped": 1}, None),
        ({"dropped": 2}, "dropped"),
        ({"failed": {"503": 2}}, "failed"),
        ({"p99_us": None, "answered": 0}, "failed"),
        ({"p99_us": 5001.0}, "p99"),
        ({"pace": 96.0}, None),
        ({"pace": 94.0}, "behind"),
        ({"pace": 94.0, "p99_us": 5001.0}, "p99"),
    ],
)
def test_a_rate_is_not_held_with_lost_requests_a_late_p99_or_a_queue_that_grows(
    values: dict[str, Any], reason: str | None
) -> None:
    assert find_shortfall(step("fp32", 0, 100.0, **{"p99_us": 5000.0, **values}), 5000.0) == reason
