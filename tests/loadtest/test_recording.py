from __future__ import annotations

from array import array
from collections import Counter

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from slimq.loadtest.driver import BlockResult
from slimq.loadtest.recording import (
    MAX_US,
    Recording,
    make_histogram,
    read_quantiles,
    record,
)


def test_quantiles_of_a_histogram_are_those_of_the_values_to_three_digits() -> None:
    values = np.random.default_rng(0).lognormal(7, 1.5, 20_000)
    histogram = make_histogram()
    record(histogram, values)
    for quantile, found in read_quantiles(histogram).items():
        assert found == pytest.approx(np.quantile(values, quantile), rel=3e-3, abs=1)


def test_histograms_add_up_and_travel() -> None:
    values = np.random.default_rng(1).lognormal(7, 1.5, 3000)
    whole, parts = make_histogram(), make_histogram()
    record(whole, values)
    for part in np.split(values, 3):
        record(parts, part)
    assert parts.equals(whole)
    assert HdrHistogram.decode(parts.encode()).equals(whole)


def test_values_out_of_range_are_kept_at_its_ends() -> None:
    histogram = make_histogram()
    record(histogram, np.array([0.2, 5 * MAX_US]))
    assert histogram.get_total_count() == 2
    assert histogram.get_min_value() == 1
    assert histogram.get_max_value() >= 0.99 * MAX_US


def test_an_empty_histogram_has_no_quantiles() -> None:
    assert read_quantiles(make_histogram()) == {}


def test_a_sample_is_what_the_block_has_seen() -> None:
    answers = BlockResult(
        seconds=2.0,
        sent=110,
        answered=100,
        completed=90,
        failed=Counter({"503": 10}),
        dropped=5,
        latencies=array("d", [index / 1000 for index in range(1, 101)]),
        lateness=array("d", [0.0001] * 99 + [0.1]),
        generator=0.25,
    )
    recording = Recording()
    sample = recording.add("open", 3, "int8", 60.0, answers, 0.05)
    assert sample.throughput == 45.0
    assert sample.processor_us == pytest.approx(500.0)
    assert (sample.p10_us, sample.p50_us) == (pytest.approx(10_900), pytest.approx(50_500))
    assert sample.p99_us == pytest.approx(99_010)
    assert sample.late_us == pytest.approx(1_099)
    assert sample.lost == 15
    assert recording.of("open", "int8") == recording.of("open") == [sample]
    assert recording.of("closed") == recording.of("open", "fp32") == []
    assert recording.histograms["open", "int8", None].get_total_count() == 100


def test_a_block_without_an_answer_has_no_latency() -> None:
    sample = Recording().add("closed", 0, "fp32", None, BlockResult(seconds=1.0, sent=3), 0.1)
    assert (sample.p50_us, sample.mean_us, sample.processor_us) == (None, None, None)
    assert sample.throughput == 0.0
    assert sample.statistic("throughput") == 0.5


def test_processor_time_that_no_tick_has_seen_is_half_a_tick() -> None:
    answers = BlockResult(seconds=1.0, sent=100, answered=100, completed=100)
    sample = Recording().add("closed", 0, "fp32", None, answers, 0.0)
    assert sample.statistic("processor") == pytest.approx(50.0)


def test_each_rate_of_the_steps_has_a_histogram_of_its_own() -> None:
    recording = Recording()
    for rate in (100.0, 200.0, 100.0):
        answers = BlockResult(seconds=1.0, answered=1, latencies=array("d", [0.001]))
        recording.add("steps", 0, "fp32", rate, answers, None)
    counts = {key[2]: h.get_total_count() for key, h in recording.histograms.items()}
    assert counts == {100.0: 2, 200.0: 1}
