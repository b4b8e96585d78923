from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from slimq.evaluation.loadtest.analysis import (
    find_ceilings,
    find_differences,
    signed_rank_interval,
    why_not_held,
)
from slimq.evaluation.loadtest.plan import ERROR_RATE, Plan, blocks, name_subjects
from slimq.evaluation.loadtest.recording import Recording, Sample

KNOWN = ["fp32", "int8", "tiny"]


def make_sample(label: str, number: int = 0, **values: Any) -> Sample:
    plain: dict[str, Any] = {
        "mode": "closed",
        "number": number,
        "label": label,
        "rate": None,
        "seconds": 1.0,
        "throughput": 1000.0,
        "sent": 1000,
        "answered": 1000,
        "failed": {},
        "dropped": 0,
        "mean_us": 1.0,
        "p10_us": 1000.0,
        "p50_us": 2000.0,
        "p99_us": 3000.0,
        "processor_us": 500.0,
        "late_us": None,
        "generator": 0.1,
    }
    return Sample(**{**plain, **values})


def make_plan(names: list[str], **options: Any) -> Plan:
    subjects = name_subjects(names, KNOWN)
    return Plan(subjects=subjects, baseline=subjects[0].label, **options)


@pytest.mark.parametrize("count", [8, 15, 40])
def test_the_interval_is_the_one_of_scipys_exact_test(count: int) -> None:
    """A centre is in the interval just when the test does not reject it."""
    values = np.random.default_rng(count).normal(0.3, 1.0, count)
    for error in (0.05, 0.01):
        _, interval = signed_rank_interval(values, error)
        assert interval is not None
        for end, outwards in zip(interval, (-1, 1), strict=True):
            for shift, kept in ((1e-9, False), (-1e-9, True)):
                moved = values - (end + outwards * shift)
                p = stats.wilcoxon(moved, method="exact").pvalue
                assert (p > error) == kept


def test_the_centre_is_the_median_of_the_means_of_pairs() -> None:
    assert signed_rank_interval([1.0, 2.0, 10.0], 0.01) == (3.75, None)


def test_one_wild_round_does_not_move_it() -> None:
    values = np.full(20, 0.1) + np.random.default_rng(0).normal(0, 0.01, 20)
    values[3] = 5.0
    centre, interval = signed_rank_interval(values, 0.001)
    assert interval is not None
    assert 0.09 < interval[0] < centre < interval[1] < 0.12


def noise(generator: Any, count: int) -> Any:
    """What a busy machine does: slow stretches that last for many blocks, and heavy tails."""
    stretches = np.repeat(generator.normal(0, 0.3, count // 7 + 1), 7)[:count]
    drift = np.linspace(0, generator.normal(0, 0.5), count)
    return np.exp(stretches + drift + 0.05 * generator.standard_t(1.5, count))


def simulate(generator: Any, plan: Plan, ratio: float) -> Recording:
    """Blocks in the plan's order; every variant but the baseline takes `ratio` times as long."""
    order = list(blocks(plan))
    slow = {name: noise(generator, len(order)) for name in ("one", "two")}
    recording = Recording()
    for place, (number, subject) in enumerate(order):
        factor = 1.0 if subject.label == plan.baseline else ratio
        first, second = (factor * slow[name][place] for name in ("one", "two"))
        recording.samples.append(
            make_sample(
                subject.label,
                number,
                throughput=1000 / first,
                p10_us=100 * second,
                p50_us=200 * first,
                p99_us=900 * first * second,
                processor_us=50 * second,
            )
        )
    return recording


def test_noise_that_is_not_independent_is_called_real_as_rarely_as_promised() -> None:
    generator, runs, false = np.random.default_rng(2), 1500, 0
    for seed in range(runs):
        plan = make_plan(["fp32", "int8"], modes=("closed",), rounds=14, seed=seed)
        found = find_differences(simulate(generator, plan, 1.0), plan)
        assert len(found) == 5
        false += any(difference.real for difference in found)
    # With an error rate of 0.01 more than 30 of 1500 have a probability of 0.0002.
    assert stats.binom.sf(30, runs, ERROR_RATE) < 3e-4
    assert false <= 30


def test_an_order_that_is_not_drawn_would_call_drift_real() -> None:
    """What the drawn order is for: the same noise, the baseline always first."""
    generator, false = np.random.default_rng(3), 0
    for _ in range(100):
        plan = make_plan(["fp32", "int8"], modes=("closed",), rounds=14)
        recording = Recording()
        for place in range(28):
            slow = np.exp(0.05 * place + 0.01 * generator.normal())
            label = "fp32" if place % 2 == 0 else "int8"
            recording.samples.append(make_sample(label, place // 2, p50_us=200 * slow))
        false += any(difference.real for difference in find_differences(recording, plan))
    assert false > 90


def test_a_difference_is_found_through_the_noise() -> None:
    generator = np.random.default_rng(4)
    plan = make_plan(["fp32", "int8", "tiny"], modes=("closed",), rounds=40)
    found = find_differences(simulate(generator, plan, 3.0), plan)
    assert {(d.statistic, d.label) for d in found if d.real} == {
        (statistic, label)
        for statistic in ("throughput", "p10", "p50", "p99", "processor")
        for label in ("int8", "tiny")
    }
    (throughput,) = [d for d in found if (d.statistic, d.label) == ("throughput", "int8")]
    assert throughput.ratio == pytest.approx(1 / 3, rel=0.3)


def test_rounds_without_a_value_are_left_out_and_too_few_are_not_judged() -> None:
    plan = make_plan(["fp32", "int8"], modes=("closed",), rounds=12)
    recording = Recording()
    for number in range(12):
        for label in ("fp32", "int8"):
            processor = 500.0 if number < 5 else None
            recording.samples.append(make_sample(label, number, processor_us=processor))
    found = {d.statistic: d for d in find_differences(recording, plan)}
    assert (found["processor"].rounds, found["processor"].real) == (5, None)
    assert (found["p50"].rounds, found["p50"].real, found["p50"].ratio) == (12, False, 1.0)


@pytest.mark.parametrize("loser", ["fp32", "int8"])
def test_a_latency_beside_lost_requests_is_not_judged(loser: str) -> None:
    """The slow half of the requests times out on one side: what is left says nothing."""
    plan = make_plan(["fp32", "int8"], modes=("closed",), rounds=14)
    recording = Recording()
    for number in range(14):
        for label in ("fp32", "int8"):
            fast = 0.5 if label == "int8" else 1.0
            lost: dict[str, Any] = {"failed": {"timeout": 3}} if label == loser else {}
            values = {"p50_us": 2000 * fast, "p99_us": 3000 * fast, "processor_us": 500 * fast}
            speed = 1000 / fast
            recording.samples.append(make_sample(label, number, throughput=speed, **values, **lost))
    found = {d.statistic: d for d in find_differences(recording, plan)}
    assert found["throughput"].real
    for statistic in ("p10", "p50", "p99", "processor"):
        assert found[statistic].real is None
        assert found[statistic].unjudged == "0.3 % lost"
    assert found["p50"].ratio == pytest.approx(0.5)


def test_a_round_whose_answers_all_came_too_late_leaves_no_verdict_on_latency() -> None:
    plan = make_plan(["fp32", "int8"], modes=("closed",), rounds=14)
    recording = Recording()
    for number in range(14):
        late = {"throughput": 0.0, "p10_us": None, "p50_us": None, "p99_us": None}
        values: dict[str, Any] = late if number == 3 else {"p50_us": 1000.0}
        recording.samples += [make_sample("fp32", number), make_sample("int8", number, **values)]
    found = {d.statistic: d for d in find_differences(recording, plan)}
    assert found["p50"].unjudged == "rounds without a latency: 1"
    assert (found["throughput"].rounds, found["processor"].unjudged) == (14, None)


def test_rounds_without_one_answer_count_as_the_slowest() -> None:
    """Without them the three rounds that were answered would make the variant the better one."""
    plan = make_plan(["fp32", "int8"], modes=("closed",), rounds=20)
    recording = Recording()
    for number in range(20):
        speed = 0.0 if number < 17 else 2000.0 + number
        recording.samples += [
            make_sample("fp32", number, throughput=1000.0 + number),
            make_sample("int8", number, throughput=speed),
        ]
    (found,) = [d for d in find_differences(recording, plan) if d.statistic == "throughput"]
    assert (found.rounds, found.real) == (20, True)
    assert found.ratio < 0.001


def test_one_variant_at_a_time_gives_ratios_without_a_verdict() -> None:
    plan = make_plan(["fp32", "int8"], modes=("closed",), rounds=20, order="alone")
    recording = simulate(np.random.default_rng(5), plan, 2.0)
    found = find_differences(recording, plan)
    assert len(found) == 5
    assert all(difference.real is None for difference in found)


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
    base, other = find_ceilings(recording, plan)
    assert (base.rates, base.rate, base.ratio) == ((100.0, 120.0, 110.0), 110.0, None)
    assert (other.rate, other.ratio, other.low, other.high) == (300.0, 3.0, 2.0, 3.0)
    assert other.ended == "p99"


def test_a_variant_that_held_no_rate_has_a_ceiling_of_zero() -> None:
    plan = make_plan(["fp32", "int8"], modes=("steps",), p99_us=5000.0)
    recording = Recording(samples=[step("fp32", 0, 100.0, 9000.0), step("int8", 0, 100.0, 100.0)])
    base, other = find_ceilings(recording, plan)
    assert (base.rate, base.ended) == (0.0, "p99")
    assert (other.rate, other.ratio, other.ended) == (100.0, None, None)


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
    recording = Recording(capped=capped)
    for sweep in range(2):
        recording.samples += [step("fp32", sweep, 100.0, 90.0), step("int8", sweep, 200.0, 90.0)]
    base, other = find_ceilings(recording, plan)
    assert (other.rate, other.ratio) == (200.0, ratio)
    assert (base.bound, other.bound) == bounds
    for found in (base, other):
        assert found.capped == (found.label in {label for label, _ in capped})
        assert found.ended == ("cap" if (found.label, 1) in capped else None)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, None),
        ({"dropped": 1}, None),
        ({"dropped": 2}, "dropped"),
        ({"failed": {"503": 2}}, "failed"),
        ({"p99_us": None, "answered": 0}, "failed"),
        ({"p99_us": 5001.0}, "p99"),
    ],
)
def test_a_rate_is_not_held_with_lost_requests_or_a_late_p99(
    values: dict[str, Any], reason: str | None
) -> None:
    assert why_not_held(step("fp32", 0, 100.0, **{"p99_us": 5000.0, **values}), 5000.0) == reason
