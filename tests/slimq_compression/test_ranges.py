from __future__ import annotations

import weakref

import numpy as np
import onnx
import pytest

from slimq.networks.export import export_onnx
from slimq_compression.graph import run_tensors
from slimq_compression.ranges import CALIBRATORS, Calibration, MinMax, activation_ranges


def test_min_max_covers_every_value() -> None:
    whole = MinMax()
    whole.add(np.array([[0.5, -2.0], [1.0, 7.0]], np.float32))
    whole.add(np.array([3.0], np.float32))
    assert whole.range() == (-2.0, 7.0)


def test_a_range_keeps_no_values() -> None:
    whole, batch = MinMax(), np.zeros(10, np.float32)
    whole.add(batch)
    kept = weakref.ref(batch)
    del batch
    assert kept() is None
    assert whole.range() == (0.0, 0.0)


def test_a_value_that_is_no_number_is_not_lost() -> None:
    whole = MinMax()
    for value in (1.0, np.nan, 2.0):
        whole.add(np.array([value], np.float32))
    assert np.isnan(whole.range()).all()


def test_every_calibration_that_a_recipe_can_name_has_its_function() -> None:
    assert set(CALIBRATORS) == set(Calibration)


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
