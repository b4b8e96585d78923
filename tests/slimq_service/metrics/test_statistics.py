from __future__ import annotations

from slimq_service.metrics.statistics import Duration, Stages, Statistics


def test_a_duration_counts_and_adds_up() -> None:
    duration = Duration()
    duration.add(5)
    duration.add(7)
    assert (duration.count, duration.nanoseconds) == (2, 12)


def test_a_success_adds_to_every_stage_and_a_failure_to_none() -> None:
    totals = Statistics().of("tiny", "fp32")
    stages = Stages(queue=1, compute_input=2, compute_infer=3, compute_output=4)
    totals.succeed(11, stages, observations=6, executions=1)
    totals.fail.add(100)
    totals.succeed(11, stages, observations=0, executions=0)
    assert totals.stages == Stages(2, 4, 6, 8)
    assert (totals.success.count, totals.success.nanoseconds) == (2, 22)
    assert (totals.fail.count, totals.fail.nanoseconds) == (1, 100)
    assert (totals.inferences, totals.executions) == (6, 1)
    assert totals.last_inference > 1.7e12, "in milliseconds"


def test_requests_that_share_a_run_of_the_model_count_it_once() -> None:
    totals = Statistics().of("tiny", "fp32")
    for executions in (1, 0, 0):
        totals.succeed(11, Stages(), observations=2, executions=executions)
    assert (totals.success.count, totals.inferences, totals.executions) == (3, 6, 1)


def test_each_variant_has_its_own_totals() -> None:
    statistics = Statistics()
    statistics.of("tiny", "fp32").fail.add(1)
    assert statistics.of("tiny", "fp32").fail.count == 1
    assert statistics.of("tiny", "other").fail.count == 0
