from __future__ import annotations

import numpy as np
import pytest
import torch

from slimq.networks.grids import LinearLevels
from slimq_compression.quantization.levels import (
    exact_scales,
    fitted_scales,
    linear_codes,
    weight_scales,
)


def draw(rows: int = 40, width: int = 50, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def on_levels(highest: int, **values: object) -> np.ndarray:
    grid = LinearLevels(highest, **values)  # type: ignore[arg-type]
    weight = torch.from_numpy(draw())
    grid.advance(weight, 0.0)
    return grid.project(weight).numpy()


@pytest.mark.parametrize("highest", [7, 64, 127])
@pytest.mark.parametrize("fit", [True, False])
def test_the_scales_of_trained_levels_are_found_again_bit_for_bit(highest: int, fit: bool) -> None:
    rows = on_levels(highest, fit=fit)
    scales = exact_scales(rows, highest)
    assert np.isfinite(scales).all()
    codes = linear_codes(rows, scales, -highest, highest)
    np.testing.assert_array_equal(codes * scales[:, None], rows)


def test_one_scale_for_all_channels_is_found_too() -> None:
    rows = on_levels(64, per_channel=False).reshape(1, -1)
    (scale,) = exact_scales(rows, 64)
    np.testing.assert_array_equal(linear_codes(rows, np.array([scale]), -64, 64) * scale, rows)


def test_weights_off_their_levels_have_no_exact_scale() -> None:
    rows = on_levels(64)
    assert np.isnan(exact_scales(draw(), 127)).all()
    rows[3, -1] = np.nextafter(rows[3, -1], np.float32(9))
    (off,) = np.nonzero(np.isnan(exact_scales(rows, 64)))
    assert off.tolist() == [3]


def test_a_row_of_zeros_is_on_any_levels() -> None:
    assert exact_scales(np.zeros((2, 5), np.float32), 7).tolist() == [0, 0]
    assert weight_scales(np.zeros((2, 5), np.float32), 7).tolist() == [1, 1]


def test_a_row_of_zeros_gets_the_finest_scale_in_use_for_its_bias_depends_on_it() -> None:
    rows = draw()
    rows[0] = 0
    scales = weight_scales(rows, 64)
    assert scales[0] == scales[1:].min()


@pytest.mark.parametrize("highest", [64, 127])
def test_other_weights_use_the_largest_code_for_their_largest(highest: int) -> None:
    rows = draw()
    codes = linear_codes(rows, weight_scales(rows, highest), -highest, highest)
    np.testing.assert_array_equal(np.abs(codes).max(axis=1), highest)


def test_fitted_scales_err_less_than_those_of_the_largest_weight() -> None:
    rows = np.random.default_rng(0).standard_t(3, (200, 32)).astype(np.float32)

    def error(scales: np.ndarray) -> np.ndarray:
        return np.square(rows - linear_codes(rows, scales, -8, 7) * scales[:, None]).sum(axis=1)

    fitted, plain = error(fitted_scales(rows, -8, 7)), error(np.abs(rows).max(axis=1) / 7)
    assert (fitted <= plain).all()
    assert fitted.sum() < 0.85 * plain.sum()


def test_a_row_of_zeros_can_be_fitted() -> None:
    assert fitted_scales(np.zeros((1, 16), np.float32), -8, 7).tolist() == [1]
