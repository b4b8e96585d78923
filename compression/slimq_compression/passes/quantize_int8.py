"""Static int8: per-channel weights, 8-bit activations, in QDQ form, calibrated on real play.

ONNX Runtime's quantizer places the QuantizeLinear and DequantizeLinear nodes; its optimiser then
fuses them into QLinearConv, QGemm and QLinearAdd. Six things are done here beyond it:

- **Weights are portable**: codes within ±64. Without VNNI, x86 processors multiply unsigned by
  signed bytes with vpmaddubsw, which adds two products in 16 bits: 2·255·127 saturates, 2·255·64
  does not. The shipped Pong policy's mean Q error on such a processor is 0.017 with codes within
  ±64 and 0.028 with ±127; with VNNI, or on ARM, ±127 is the more exact.
- **Weights that are on levels keep them**: a scale that a training chose is found again.
- **Frames go in as they are.** A uint8 frame is already a code with scale 1/255 and zero point 0:
  `DequantizeLinear(observation)` takes the place of Cast, Mul and QuantizeLinear, which loses
  nothing and saves 25 µs.
- **Float observations stay floats** in front of the first layer, whose weights are 8 bits in the
  file all the same: a position and an angle do not fit one scale of 256 levels.
- **Q-values come out unrounded.** Neighbouring actions differ by less than a 255th of the range of
  all Q-values; the head keeps its float output.
- **Biases are corrected** for the mean error of the rounded weights (`bias_correction`).

Bytes fall to a quarter and time to 0.4 on a processor with VNNI. It fails where the calibration set
misses states with larger activations: they saturate.

`layers` leaves the others in floats. A head in floats costs the Pong policy 9 kB and raises its
agreement from 0.74 to 0.89, for the head's rounding errors shift actions against each other. A
float layer between two quantized ones saves nothing: ONNX Runtime makes codes of it when it loads.
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
    OPERATORS,
    Placement,
    Ranges,
    activations_of,
    insert_qdq,
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
    """Weights are always symmetric int8."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    activations: Activations = Field(
        default=Activations.UINT8, description="type of activations; uint8 takes frames as they are"
    )
    portable: bool = Field(
        default=True,
        description="weight codes within ±64 instead of ±127, whose sums saturate on x86 "
        "processors without VNNI",
    )
    per_channel: bool = Field(
        default=True, description="one weight scale for each output channel, not for each layer"
    )
    layers: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="by name; null: all that have float weights. The others stay in floats",
    )
    calibration: Calibration = Field(
        default=Calibration.MIN_MAX, description="how activation ranges are chosen"
    )
    percentile: float = Field(
        default=99.99,
        gt=50.0,
        le=100.0,
        description="calibration = percentile: of the magnitudes, what is not clipped, in per cent",
    )
    quantize_input: bool = Field(
        default=False,
        description="quantize float observations too, whose components then share one scale",
    )
    states: int = Field(
        default=1_024, ge=1, le=100_000, description="most calibration states to use"
    )
    bias_correction: bool = Field(
        default=True, description="take back the mean error of each channel in its bias"
    )


def apply(model: onnx.ModelProto, params: Params, context: PassContext) -> onnx.ModelProto:
    """The model in QDQ form.

    Raises:
        InvalidInputError: `layers` names one that is not there, `calibration` asks for learned
            ranges that there are none of, or batch normalization is not folded.
    """
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            expected = "batch normalization within the convolutions: put the pass fold before this"
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
    """Of every activation; frames have the whole range of their codes."""
    learned = learned_ranges(model) if params.calibration is Calibration.LEARNED else {}
    if params.calibration is Calibration.LEARNED and not learned:
        expected = "a network that was trained with quantized activations, for learned ranges"
        raise InvalidInputError("quantize_int8.calibration", expected, "one without ranges")
    frames = scaled_frames(model)
    ranges: Ranges = {}
    if frames is None:
        whole = make_calibrator(params.calibration, params.percentile)
        whole.add(states)
        ranges[INPUT] = whole.range()
    else:
        ranges[frames.tensor] = (0.0, 255.0 * frames.scale)
    names = [
        node.output[0]
        for node in activations_of(model)
        if node.op_type in OPERATORS and node.output[0] not in (*ranges, *learned, OUTPUT)
    ]
    ranges |= activation_ranges(model, names, states, params.calibration, params.percentile)
    # The quantizer wants a range for every activation; the head's own output is not quantized.
    return ranges | learned | {OUTPUT: (-1.0, 1.0)}
