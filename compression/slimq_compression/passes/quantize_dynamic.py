"""Dynamic int8: dense layers with 8-bit weights whose activations are quantized call by call.

No calibration set is needed, and nothing saturates: each call finds the range of its own batch
(ONNX Runtime's `DynamicQuantizeMatMul`). So the Q-values of a state depend, within rounding, on
what else is in its batch. Convolutions stay as they are: a dynamic convolution (ConvInteger) takes
1.85 times the time of a float one.

Weights are symmetric and, with `portable`, within ±64, as in `quantize_int8`. The dense layers fall
to a quarter of their bytes; at batch 1, where they wait for memory, they take a third of the time.
It gains nothing where the layers are small: finding the range costs microseconds. Nothing corrects
the head's rounding errors, which shift actions against each other: leave it out of `layers`.
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
    """Weights are always symmetric int8, activations always uint8."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_channel: bool = Field(
        default=True, description="one weight scale for each output, not for each layer"
    )
    portable: bool = Field(
        default=True,
        description="weight codes within ±64 instead of ±127, whose sums saturate on x86 "
        "processors without VNNI",
    )
    layers: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="dense layers by name; null: all"
    )


def apply(model: onnx.ModelProto, params: Params, context: PassContext) -> onnx.ModelProto:  # noqa: ARG001
    """The model with integer dense layers.

    Raises:
        InvalidInputError: `layers` names one that is no dense layer with float weights, or there is
            none at all.
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
