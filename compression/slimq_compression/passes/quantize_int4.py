"""Blockwise int4: dense layers that compute with 4-bit weights (MatMulNBits).

A block of neighbouring inputs shares one scale (Dettmers & Zettlemoyer 2023, arXiv:2212.09720,
explain why 4 bits need small blocks). Activations are quantized to 8 bits on the fly. Codes are
from −8 to 7 with a zero point in the middle, so sums do not saturate on any processor.

- **Weights on levels keep them**: weights trained on `LinearLevels` of at most ±7 are encoded bit
  for bit, with their own block size or a smaller one; a larger one is refused.
- **Other weights** get the scale of least squared error in each block, with clipping.
- **Biases are corrected** for the mean error of the rounded weights (`bias_correction`).

It takes (4 + 32/block size) bits per weight and, at batch 1, where a dense layer is memory-bound,
less than half the time; at batch 32 the gain is small. Convolutions are not changed: combine with
`quantize_int8` and its `layers`. It does not suit small layers, whose error outweighs the bytes
saved: `smallest` leaves such layers, mostly the head, in floats.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from pydantic import BaseModel, ConfigDict, Field

from slimq.core.errors import InvalidInputError
from slimq_compression.context import PassContext
from slimq_compression.graph import integer_layers
from slimq_compression.graph.layers import DENSE, float_layers, weight_rows
from slimq_compression.graph.model import copy_model, remove_unused
from slimq_compression.quantization.bias_correction import correct_biases
from slimq_compression.quantization.levels import exact_scales, fitted_scales, linear_codes

LOWEST, HIGHEST = -8, 7
LEVELS = 7
"""Largest code of symmetric 4-bit levels."""
BLOCK_SIZES = (16, 32, 64, 128, 256)

Floats = npt.NDArray[np.float32]
Coded = dict[str, tuple[npt.NDArray[np.int8], Floats, int]]


class Params(BaseModel):
    """Parameters. Weights are always symmetric int4."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    block_size: Literal[16, 32, 64, 128, 256] = Field(
        default=32, description="inputs that share one scale (4 bytes)"
    )
    smallest: int = Field(
        default=32, ge=1, le=65_536, description="minimum outputs of a dense layer to be quantized"
    )
    states: int = Field(
        default=1_024, ge=1, le=100_000, description="maximum calibration states to use"
    )
    bias_correction: bool = Field(
        default=True, description="correct the mean error of each output in its bias"
    )


def apply(model: onnx.ModelProto, params: Params, context: PassContext) -> onnx.ModelProto:
    """Replaces dense layers with 4-bit ones.

    Raises:
        InvalidInputError: no dense layer with float weights has `smallest` outputs or more, or
            weights are on levels of smaller blocks.
    """
    rows = {name: weight_rows(model, node) for name, node in float_layers(model, DENSE).items()}
    wide = {name: weights for name, weights in rows.items() if len(weights) >= params.smallest}
    if not wide:
        widths = ", ".join(f"{name}: {len(weights)}" for name, weights in rows.items()) or "none"
        expected = f"at most the outputs of a dense layer with float weights ({widths})"
        raise InvalidInputError("quantize_int4.smallest", expected, str(params.smallest))
    coded = {name: _encode(name, weights, params.block_size) for name, weights in wide.items()}
    given = model
    if params.bias_correction:
        states = context.spread(params.states)
        given = correct_biases(model, lambda m: _replace(m, coded), states, context.progress)
    return _replace(given, coded)


def _encode(
    name: str, weights: Floats, block_size: int
) -> tuple[npt.NDArray[np.int8], Floats, int]:
    """Codes `(outputs, blocks, block size)`, scales `(outputs, blocks)` and number of inputs."""
    outputs, width = weights.shape
    blocks = _blocks(weights, block_size)
    scales = exact_scales(blocks, LEVELS)
    plain = np.isnan(scales)
    if plain.any():
        for smaller in (size for size in reversed(BLOCK_SIZES) if size < block_size):
            if not np.isnan(exact_scales(_blocks(weights, smaller), LEVELS)).any():
                expected = (
                    f"at most {smaller}, since the weights of {name} are on levels of such blocks"
                )
                raise InvalidInputError("quantize_int4.block_size", expected, str(block_size))
        # If any block is off its levels, the layer was not trained on levels, and matches are
        # chance.
        scales = fitted_scales(blocks, LOWEST, HIGHEST)
    scales = np.where(scales > 0, scales, np.float32(1.0)).astype(np.float32)
    codes = linear_codes(blocks, scales, LOWEST, HIGHEST)
    return codes.reshape(outputs, -1, block_size), scales.reshape(outputs, -1), width


def _blocks(weights: Floats, size: int) -> Floats:
    """Splits rows into blocks `(outputs · blocks, size)`, padding the last one with zeros."""
    padding = -weights.shape[1] % size
    return np.pad(weights, ((0, 0), (0, padding))).reshape(-1, size)


def _replace(model: onnx.ModelProto, coded: Coded) -> onnx.ModelProto:
    """Copies the model with coded layers."""
    changed = copy_model(model)
    for node in changed.graph.node:
        if node.name in coded:
            made, tensors = integer_layers.blocks_layer(node, *coded[node.name])
            integer_layers.replace(changed, node, made, tensors)
    remove_unused(changed)
    return changed
