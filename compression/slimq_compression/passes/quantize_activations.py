"""Activations below 8 bits: hidden layers output 4-bit or 2-bit codes.

Every ReLU is followed by QuantizeLinear to an unsigned 4-bit or 2-bit type (ONNX opset 21 or 25)
and by a conversion of the codes to floats: levels from 0 to the upper end of the range, as trained
by `finetune` with `activation_bits` (Choi et al. 2018, "PACT", 1805.06085; here the range is a
running mean of the batches' largest values). With learned ranges, the graph computes the trained
function.

Codes are converted by Cast and Mul rather than DequantizeLinear: with that node, ONNX Runtime 1.32
quantizes the next layer's weights to 8 bits and, with 2-bit activations, builds a graph that it
rejects. It has no kernels for such narrow codes, so this pass costs some microseconds per layer and
saves neither time nor bytes on a general-purpose processor. It shows how well a policy would play
on hardware with narrow activations. For 8 bits there are kernels: see `quantize_int8`. The policy
fails without training, and if outliers determine the range.
"""

from __future__ import annotations

from typing import Literal

import onnx
from onnx import TensorProto, helper
from pydantic import BaseModel, ConfigDict, Field

from slimq.core.errors import InvalidInputError
from slimq_compression.context import PassContext
from slimq_compression.graph.model import copy_model, raise_opset
from slimq_compression.quantization.qdq import activations_of
from slimq_compression.quantization.ranges import (
    Calibration,
    activation_ranges,
    learned_ranges,
)

MIN_HIGH = 1e-30
"""Upper end of the range of a layer that always outputs zero, since scales must be positive."""
TYPES = {2: (TensorProto.UINT2, 25), 4: (TensorProto.UINT4, 21)}
"""Type, and first opset whose QuantizeLinear supports it, by bits per code."""


class Params(BaseModel):
    """Parameters. Codes are always unsigned, since they follow ReLUs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bits: Literal[2, 4] = Field(default=4, description="bits per code")
    calibration: Calibration = Field(
        default=Calibration.LEARNED,
        description="calibration method for the upper end of ranges",
    )
    percentile: float = Field(
        default=99.99,
        gt=50.0,
        le=100.0,
        description="for calibration = percentile: percentage of values not clipped",
    )
    states: int = Field(
        default=1_024, ge=1, le=100_000, description="maximum calibration states to use"
    )


def apply(model: onnx.ModelProto, params: Params, context: PassContext) -> onnx.ModelProto:
    """Quantizes the outputs of all ReLUs.

    Raises:
        InvalidInputError: there is no ReLU, or `calibration` is `learned` and a ReLU has no learned
            range.
    """
    names = [node.output[0] for node in activations_of(model) if node.op_type == "Relu"]
    if not names:
        raise InvalidInputError("quantize_activations.graph", "hidden layers with ReLUs", "none")
    highs = _highs(model, names, params, context)
    changed = copy_model(model)
    nodes = list(changed.graph.node)
    del changed.graph.node[:]
    kind, opset = TYPES[params.bits]
    for node in nodes:
        changed.graph.node.append(node)
        name = node.output[0]
        if name not in highs:
            continue
        made = changed.graph.node[-1]
        made.output[0] = f"{name}_float"
        scale = max(highs[name], MIN_HIGH) / (2**params.bits - 1)
        grid = [f"{name}_scale", f"{name}_zero"]
        changed.graph.initializer.append(
            helper.make_tensor(grid[0], TensorProto.FLOAT, [], [scale])
        )
        changed.graph.initializer.append(helper.make_tensor(grid[1], kind, [], [0]))
        quantize = [f"{name}_float", *grid], [f"{name}_codes"], f"{node.name}_quantize"
        levels = [f"{name}_codes"], [f"{name}_levels"], f"{node.name}_levels"
        rescale = [f"{name}_levels", grid[0]], [name], f"{node.name}_rescale"
        changed.graph.node.append(helper.make_node("QuantizeLinear", *quantize))
        changed.graph.node.append(helper.make_node("Cast", *levels, to=TensorProto.FLOAT))
        changed.graph.node.append(helper.make_node("Mul", *rescale))
    raise_opset(changed, opset)
    return changed


def _highs(
    model: onnx.ModelProto, names: list[str], params: Params, context: PassContext
) -> dict[str, float]:
    """The upper end of each range."""
    if params.calibration is Calibration.LEARNED:
        learned = learned_ranges(model)
        without = [name for name in names if name not in learned]
        if without:
            expected = "a network trained with activation_bits, for learned ranges"
            received = f"{without[0]!r} without a range"
            raise InvalidInputError("quantize_activations.calibration", expected, received)
        return {name: learned[name][1] for name in names}
    states = context.spread(params.states)
    ranges = activation_ranges(model, names, states, params.calibration, params.percentile)
    return {name: high for name, (_, high) in ranges.items()}
