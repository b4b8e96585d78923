from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from slimq.core.errors import CheckFailedError, RepositoryError
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.repository import Repository
from slimq.evaluation.latency import latency_ratio, measure_latency, processor_name

STATES = np.arange(40, dtype=np.float32).reshape(10, 4)


class Counting:
    def __init__(self):
        self.sizes = []

    def __call__(self, observations, /):
        self.sizes.append(len(observations))
        return np.zeros((len(observations), 2), dtype=np.float32)


@pytest.fixture
def measured():
    made = {"fp32": [], "other": []}

    def load(name):
        made[name].append(Counting())
        return made[name][-1]

    reports = measure_latency(
        {name: lambda name=name: load(name) for name in made},
        STATES,
        batches=(1, 32),
        iterations=7,
    )
    return made, reports


def test_every_mode_and_batch_size_is_measured_for_every_variant(measured):
    _, reports = measured
    for report in reports.values():
        assert [(m.mode, m.batch) for m in report.measurements] == [
            ("interleaved", 1),
            ("interleaved", 32),
            ("alone", 1),
            ("alone", 32),
        ]
        for m in report.measurements:
            assert m.iterations == 7
            assert 0 < m.p50_us <= m.p95_us <= m.p99_us
        assert report.variants == ["fp32", "other"]
        assert report.threads == 1
        assert report.processor
        assert report.onnxruntime


def test_variants_of_one_run_share_its_id_and_runs_differ(measured):
    _, reports = measured
    assert len({report.run_id for report in reports.values()}) == 1
    again = measure_latency({"fp32": Counting}, STATES, batches=(1,), iterations=1)
    assert again["fp32"].run_id != reports["fp32"].run_id


def test_alone_loads_again_and_few_states_still_fill_the_batches(measured):
    made, _ = measured
    assert all(len(loaded) == 3 for loaded in made.values())
    assert {size for loaded in made.values() for f in loaded for size in f.sizes} == {1, 32}


def test_the_ratio_is_of_the_medians_of_one_run(make_report):
    full = make_report("fp32", [1.0], p50=300.0).latency
    variant = make_report("other", [1.0], p50=100.0).latency
    assert latency_ratio(variant, full, "alone", 1) == pytest.approx(3.0)
    assert latency_ratio(full, full, "interleaved", 32) == 1.0


def test_there_is_no_ratio_between_runs_or_without_a_measurement(make_report):
    full = make_report("fp32", [1.0], p50=300.0).latency
    other_run = make_report("other", [1.0], p50=100.0, run_id="later").latency
    assert latency_ratio(other_run, full, "alone", 1) is None
    assert latency_ratio(full, full, "alone", 2) is None
    assert latency_ratio(None, full, "alone", 1) is None


def test_a_ratio_is_the_median_of_the_per_process_ratios(make_report):
    full = make_report("fp32", [1.0], p50=300.0).latency
    variant = make_report("other", [1.0], p50=100.0).latency

    def of_processes(report, medians):
        measurements = [
            m.model_copy(update={"processes_p50_us": medians}) for m in report.measurements
        ]
        return report.model_copy(update={"measurements": measurements})

    slow_machine_at_times = of_processes(full, [300.0, 600.0, 330.0])
    ours = of_processes(variant, [100.0, 200.0, 100.0])
    assert latency_ratio(ours, slow_machine_at_times, "alone", 1) == pytest.approx(3.0)


def test_each_process_is_fresh_and_adds_a_median():
    repository = Repository(Path(__file__).parents[2] / "policies")
    _, content = repository.read_model("cartpole", "pruned-int8")
    spec = repository.policy("cartpole").observation
    load = partial(OnnxPolicy, content, spec, 2, "cartpole/pruned-int8")
    seen = []
    states = np.zeros((4, 4), np.float32)
    report = measure_latency(
        {"a": load, "b": load},
        states,
        batches=(2,),
        iterations=5,
        processes=3,
        on_process=seen.append,
    )["b"]
    assert (seen, report.processes) == ([1, 2, 3], 3)
    for m in report.measurements:
        assert (m.iterations, len(m.processes_p50_us)) == (15, 3)
        assert m.p50_us == np.median(m.processes_p50_us) > 0


def test_a_process_that_dies_is_named():
    died = partial(os._exit, 3)
    with pytest.raises(CheckFailedError, match="process 1 of 2 died"):
        measure_latency({"dead": died}, STATES, batches=(1,), iterations=1, processes=2)


def test_an_error_in_a_process_is_raised_by_the_caller():
    spec = Repository(Path(__file__).parents[2] / "policies").policy("cartpole").observation
    load = partial(OnnxPolicy, b"no model", spec, 2, "cartpole/broken")
    with pytest.raises(RepositoryError, match="cartpole/broken"):
        measure_latency({"broken": load}, STATES, batches=(1,), iterations=1, processes=1)


def test_the_processor_has_a_name():
    assert processor_name()
