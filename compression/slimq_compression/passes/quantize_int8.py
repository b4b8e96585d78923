"""Static int8: per-channel weights, 8-bit activations, QDQ format, calibrated on real play.

ONNX Runtime's quantizer inserts QuantizeLinear and DequantizeLinear nodes; its optimizer fuses them
into QLinearConv, QGemm and QLinearAdd. This pass adds six things:

- **Weights are portable**: codes within ±64. Without VNNI, x86 processors multiply unsigned by
  signed bytes with vpmaddubsw, which adds two products in 16 bits: 2·255·127 saturates, 2·255·64
  does not. The shipped Pong policy's mean Q error on such a processor is 0.017 with codes within
  ±64 and 0.028 with ±127; with VNNI, or on ARM, ±127 is more accurate.
- **Weights on levels keep them**: the scales used in training are recovered.
- **Frames are used directly.** A uint8 frame is already a code with scale 1/255 and zero point 0:
  `DequantizeLinear(observation)` replaces Cast, Mul and QuantizeLinear, which is lossless
  and saves 25 µs.
- **Float observations stay floats** before the first layer, whose weights are still stored in 8
  bits: a position and an angle do not fit one scale of 256 levels.
- **Q-values are not rounded.** Actions may differ by less than 1/255 of the range of all Q-values;
  the head keeps its float output.
- **Biases are corrected** for the mean error of the rounded weights (`bias_correction`).

It reduces bytes to a quarter and, on a processor with VNNI, time to 0.4. If the calibration set
misses states with larger activations, these saturate.

Layers not in `layers` stay in floats. A float head costs the Pong policy 9 kB and raises its
agreement from 0.74 to 0.89, since the head's rounding errors shift actions relative to each other.
A float layer between two quantized ones has no effect: ONNX Runtime quantizes it on loading.
"""

from __future__ import annotations

from enum import StrEnum

import onnx
from pydantic import BaseModel, ConfigDict, Field

from slimq.core.errors import InvalidInputError
from slimq.core.observation import Observations
from slimq.networks.export import INPUT, OUTPUT
from slimq_compression.context import PassContext
from slimq_compression.graph.layers import choose_layers
from slimq_compression.quantization.bias_correction import correct_biases
from slimq_compression.quantization.qdq import (
    Placement,
    Ranges,
    insert_qdq,
    quantizable_tensors,
    scaled_frames,
)
from slimq_compression.quantization.ranges import (
    Calibration,
    activation_ranges,
    learned_ranges,
    make_calibrator,
)


class Activations(StrEnum):
    """The 8-bit type of activations."""

    UINT8 = "uint8"
    INT8 = "int8"


class Params(BaseModel):
    """Parameters. Weights are always symmetric int8."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    activations: Activations = Field(
        default=Activations.UINT8, description="type of activations; uint8 uses frames as they are"
    )
    portable: bool = Field(
        default=True,
        description="weight codes within ±64; with ±127, sums saturate on x86 "
        "processors without VNNI",
    )
    per_channel: bool = Field(
        default=True, description="one weight scale per output channel rather than per layer"
    )
    layers: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="layers to quantize by name or role (first, convolutions, dense, head); null: "
        "all with float weights",
    )
    calibration: Calibration = Field(
        default=Calibration.MIN_MAX, description="calibration method for activation ranges"
    )
    percentile: float = Field(
        default=99.99,
        gt=50.0,
        le=100.0,
        description="for calibration = percentile: percentage of values not clipped",
    )
    quantize_input: bool = Field(
        default=False,
        description="also quantize float observations, whose components then share one scale",
    )
    states: int = Field(
        default=1_024, ge=1, le=100_000, description="maximum calibration states to use"
    )
    bias_correction: bool = Field(
        default=True, description="correct the mean error of each channel in its bias"
    )


def apply(model: onnx.ModelProto, params: Params, context: PassContext) -> onnx.ModelProto:
    """Quantizes the model, in QDQ format.

    Raises:
        InvalidInputError: `layers` names an unknown layer, `calibration` is `learned` and there are
            no learned ranges, or batch normalization is not folded.
    """
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            expected = "folded batch normalization: put the pass fold before this one"
            raise InvalidInputError("quantize_int8.graph", expected, f"the node {node.name!r}")
    layers = choose_layers(model, params.layers, "quantize_int8.layers")
    states = context.spread(params.states)
    placement = Placement(
        layers=frozenset(layers),
        ranges=_ranges(model, states, params),
        highest=64 if params.portable else 127,
        per_channel=params.per_channel,
        signed=params.activations is Activations.INT8,
        quantize_input=params.quantize_input,
    )
    corrected = model
    if params.bias_correction:
        corrected = correct_biases(
            model, lambda given: insert_qdq(given, placement), states, context.progress
        )
    return insert_qdq(corrected, placement)


def _ranges(model: onnx.ModelProto, states: Observations, params: Params) -> Ranges:
    """The range of every activation; frames have the full range of their codes."""
    learned = learned_ranges(model) if params.calibration is Calibration.LEARNED else {}
    if params.calibration is Calibration.LEARNED and not learned:
        expected = "a network trained with quantized activations, for learned ranges"
        raise InvalidInputError("quantize_int8.calibration", expected, "one without ranges")
    frames = scaled_frames(model)
    ranges: Ranges = {}
    if frames is None:
        whole = make_calibrator(params.calibration, params.percentile)
        whole.add(states)
        ranges[INPUT] = whole.range()
    else:
        ranges[frames.tensor] = (0.0, 255.0 * frames.scale)
    known = {*ranges, *learned, OUTPUT}
    names = [name for name in quantizable_tensors(model) if name not in known]
    ranges |= activation_ranges(model, names, states, params.calibration, params.percentile)
    # The quantizer needs a range for every activation, although the Q-values are not quantized.
    return ranges | learned | {OUTPUT: (-1.0, 1.0)}
