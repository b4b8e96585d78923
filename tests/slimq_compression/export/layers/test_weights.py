"""Packed codes."""

from __future__ import annotations

import numpy as np
import pytest

from slimq_compression.export.layers.weights import Weights, pack


@pytest.mark.parametrize("bits", range(1, 7))
def test_the_first_code_is_in_the_lowest_bits(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, 37)
    packed = int.from_bytes(pack(codes, bits).tobytes(), "little")
    assert [packed >> (bits * i) & (2**bits - 1) for i in range(37)] == codes.tolist()


def test_integer_sums_must_fit_32_bits() -> None:
    codes = np.full(70_000, 127, np.int8)
    assert not Weights(1, 70_000, codes).fits_integer_sums()
    assert Weights(1, 60_000, codes[:60_000]).fits_integer_sums()
    assert not Weights(1, 60_000, codes[:60_000]).fits_integer_sums(300_000_000)
