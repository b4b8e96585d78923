from __future__ import annotations

import weakref

import numpy as np
import onnx
import pytest

from slimq.networks.export import export_onnx
from slimq_compression.graph.model import run_tensors
from slimq_compression.quantization.ranges import (
    Calibration,
    MinMax,
    activation_ranges,
    learned_ranges,
    make_calibrator,
)

every_calibration = pytest.mark.parametrize("calibration", list(Calibration))
clipping = pytest.mark.parametrize("calibration", [Calibration.PERCENTILE, Calibration.KL])


def range_of(calibration: Calibration, *batches: np.ndarray, percentile: float = 99.0):
    calibrator = make_calibrator(calibration, percentile)
    for batch in batches:
        calibrator.add(batch.astype(np.float32))
    return calibrator.range()


def test_min_max_covers_every_value() -> None:
    whole = MinMax()
    whole.add(np.array([[0.5, -2.0], [1.0, 7.0]], np.float32))
    whole.add(np.array([3.0], np.float32))
    assert whole.range() == (-2.0, 7.0)


@every_calibration
def test_a_range_keeps_no_values(calibration: Calibration) -> None:
    calibrator, batch = make_calibrator(calibration, 99.0), np.zeros(10, np.float32)
    calibrator.add(batch)
    kept = weakref.ref(batch)
    del batch
    assert kept() is None
    assert calibrator.range() == (0.0, 0.0)


@every_calibration
def test_a_value_that_is_no_number_is_not_lost(calibration: Calibration) -> None:
    found = range_of(calibration, *(np.array([value]) for value in (1.0, np.nan, 2.0)))
    assert np.isnan(found).all()


@every_calibration
def test_an_infinite_value_is_not_lost(calibration: Calibration) -> None:
    assert range_of(calibration, np.array([1.0]), np.array([np.inf]))[1] == np.inf


@clipping
def test_a_heavy_tail_is_clipped_where_min_max_keeps_it(calibration: Calibration) -> None:
    values = np.random.default_rng(0).standard_t(2, 50_000)
    whole, clipped = range_of(Calibration.MIN_MAX, values), range_of(calibration, values)
    assert whole[0] < 2 * clipped[0] < 0 < 2 * clipped[1] < whole[1]


@clipping
def test_activations_behind_a_relu_start_at_zero(calibration: Calibration) -> None:
    values = np.maximum(np.random.default_rng(0).standard_t(2, 50_000), 0)
    low, high = range_of(calibration, values)
    assert low == 0
    assert 0 < high < 0.5 * values.max()


@every_calibration
def test_a_range_never_exceeds_the_values(calibration: Calibration) -> None:
    values = np.random.default_rng(0).normal(size=5_000)
    values[values < -0.5] = -0.5
    low, high = range_of(calibration, values, percentile=100.0)
    assert values.min() - 1e-6 <= low <= -0.49
    assert 0.5 < high <= values.max() + 1e-6


def test_the_percentile_is_the_one_that_was_asked_for() -> None:
    values = np.random.default_rng(0).exponential(size=50_000)
    for percentile in (90.0, 99.0, 99.9):
        _, high = range_of(Calibration.PERCENTILE, values, percentile=percentile)
        assert high == pytest.approx(np.percentile(values, percentile), abs=values.max() / 1_000)


def test_learned_ranges_are_read_from_the_models_metadata(make_network) -> None:
    network = make_network("conv")
    assert learned_ranges(onnx.load_model_from_string(export_onnx(network))) == {}
    network.ranges = {"conv1.relu": (0.0, 1.5), "dense1.relu": (0.0, 0.25)}
    model = onnx.load_model_from_string(export_onnx(network))
    assert learned_ranges(model) == network.ranges


def test_ranges_are_taken_over_all_states_not_over_the_last_batch(
    make_network, make_states
) -> None:
    model = onnx.load_model_from_string(export_onnx(make_network("mlp")))
    states = make_states("mlp", 200)
    states[0] *= 50
    (found,) = activation_ranges(model, ["dense1"], states, Calibration.MIN_MAX).values()
    values = np.concatenate([v["dense1"] for v in run_tensors(model, ["dense1"], states)])
    assert found == pytest.approx((values.min(), values.max()))
    assert found[1] > 3 * values[1:].max()
