from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from load_samples import make_plan, make_sample
from slimq.loadtest import analysis
from slimq.loadtest.analysis import find_differences, signed_rank_interval
from slimq.loadtest.plan import ERROR_RATE, Plan, blocks
from slimq.loadtest.recording import Recording


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
    tails = np.clip(generator.standard_t(1.5, count), -100, 100)
    return np.exp(stretches + drift + 0.05 * tails)


MEASURED = {"throughput": 1000, "p10": 100, "p50": 200, "p99": 900, "processor": 50}


def simulate(generator: Any, plan: Plan, ratio: float) -> Recording:
    """Blocks in the plan's order; every variant but the baseline takes `ratio` times as long.

    Each statistic has noise of its own, so that each comparison can go wrong by itself.
    """
    order = list(blocks(plan))
    slow = {name: noise(generator, len(order)) for name in MEASURED}
    recording = Recording()
    for place, (number, subject) in enumerate(order):
        factor = 1.0 if subject.label == plan.baseline else ratio
        took = {name: factor * slow[name][place] for name in MEASURED}
        values = {f"{n}_us": MEASURED[n] * took[n] for n in MEASURED if n != "throughput"}
        speed = MEASURED["throughput"] / took["throughput"]
        recording.samples.append(make_sample(subject.label, number, throughput=speed, **values))
    return recording


def test_noise_that_is_not_independent_is_called_real_as_rarely_as_promised() -> None:
    """Without the division by the number of comparisons some 70 would be, of 1,500."""
    generator, runs, false = np.random.default_rng(2), 1500, 0
    for seed in range(runs):
        plan = make_plan(["fp32", "int8"], modes=("closed",), rounds=14, seed=seed)
        found = find_differences(simulate(generator, plan, 1.0), plan)
        assert len(found) == 5
        false += any(difference.real for difference in found)
    # With an error rate of 0.01 more than 28 of 1500 have a probability of 0.001.
    assert stats.binom.sf(28, runs, ERROR_RATE) < 1e-3
    assert false <= 28


def test_each_comparison_has_its_share_of_the_error_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []

    def listen(values: Any, error: float) -> Any:
        shares.append(error)
        return signed_rank_interval(values, error)

    monkeypatch.setattr(analysis, "signed_rank_interval", listen)
    plan = make_plan(["fp32", "int8", "tiny"], modes=("closed", "open"), rounds=14)
    find_differences(simulate(np.random.default_rng(0), plan, 1.0), plan)
    assert shares == [pytest.approx(ERROR_RATE / 18)] * 10  # nothing was measured of `open`


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
