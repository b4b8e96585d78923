"""Dynamic int8: dense layers with 8-bit weights, and activations quantized on each call.

No calibration is needed, and nothing saturates: each call determines the range of its own batch
(ONNX Runtime's `DynamicQuantizeMatMul`). A state's Q-values therefore depend slightly, by rounding,
on the rest of its batch. Convolutions stay in floats: a dynamic convolution (ConvInteger) takes
1.85 times as long as a float one.

Weights are symmetric and, with `portable`, within ±64, as in `quantize_int8`. Dense layers take a
quarter of the bytes and, at batch 1, where they are memory-bound, a third of the time. Small layers
gain nothing, since determining the range takes microseconds. The head's rounding errors are not
corrected and shift actions relative to each other: leave the head out of `layers`.
"""

from __future__ import annotations

import onnx
from pydantic import BaseModel, ConfigDict, Field

from slimq_compression.context import PassContext
from slimq_compression.graph import integer_layers
from slimq_compression.graph.layers import DENSE, choose_layers, weight_rows
from slimq_compression.graph.model import copy_model, remove_unused
from slimq_compression.quantization.levels import linear_codes, weight_scales


class Params(BaseModel):
    """Parameters. Weights are always symmetric int8, activations always uint8."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_channel: bool = Field(
        default=True, description="one weight scale per output rather than per layer"
    )
    portable: bool = Field(
        default=True,
        description="weight codes within ±64; with ±127, sums saturate on x86 "
        "processors without VNNI",
    )
    layers: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="dense layers by name or role; null: all"
    )


def apply(model: onnx.ModelProto, params: Params, context: PassContext) -> onnx.ModelProto:  # noqa: ARG001
    """Replaces dense layers with integer ones.

    Raises:
        InvalidInputError: `layers` names a layer that is not dense with float weights, or there is
            no such layer.
    """
    highest = 64 if params.portable else 127
    coded = copy_model(model)
    layers = choose_layers(coded, params.layers, "quantize_dynamic.layers", DENSE)
    for node in layers.values():
        rows = weight_rows(coded, node)
        scales = weight_scales(rows if params.per_channel else rows.reshape(1, -1), highest)
        codes = linear_codes(rows, scales, -highest, highest)
        integer_layers.replace(coded, node, *integer_layers.dynamic_layer(node, codes, scales))
    remove_unused(coded)
    return coded
