"""Activations below 8 bits: hidden layers answer with 4-bit or 2-bit codes.

Behind every ReLU stands QuantizeLinear to an unsigned type of so many bits (ONNX from opset 21 for
4 bits, from 25 for 2), and what makes floats of the codes: levels from 0 to the top of the range,
as `finetune` trains them with `activation_bits` (Choi et al. 2018, "PACT", 1805.06085; here the
range is a running mean of the batches' largest values). With ranges that were learned the graph
computes what was trained.

The codes become floats by Cast and Mul, not by DequantizeLinear: in front of that, ONNX Runtime
1.32 makes 8-bit codes of the next layer's weights and, of 2-bit activations, a graph that it then
refuses. It has no kernel that multiplies such narrow codes, so this costs some microseconds for
each layer and saves neither time nor bytes on a general processor. What it shows is what hardware
with narrow activations would keep of the play. With 8 bits there are kernels: that is
`quantize_int8`. It fails without training, and where the top of a range is an outlier's.
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

SMALLEST = 1e-30
"""Top of the range of a layer that is always zero, whose scale must not be."""
TYPES = {2: (TensorProto.UINT2, 25), 4: (TensorProto.UINT4, 21)}
"""By bits of a code: the type, and the first opset whose QuantizeLinear has it."""


class Params(BaseModel):
    """Codes are always unsigned, from 0 on: they follow ReLUs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bits: Literal[2, 4] = Field(default=4, description="of a code")
    calibration: Calibration = Field(
        default=Calibration.LEARNED, description="how the top of each range is chosen"
    )
    percentile: float = Field(
        default=99.99,
        gt=50.0,
        le=100.0,
        description="calibration = percentile: of the magnitudes, what is not clipped, in per cent",
    )
    states: int = Field(
        default=1_024, ge=1, le=100_000, description="most calibration states to use"
    )


def apply(model: onnx.ModelProto, params: Params, context: PassContext) -> onnx.ModelProto:
    """The model with codes behind its ReLUs.

    Raises:
        InvalidInputError: there is no ReLU in floats, or `calibration` asks for learned ranges that
            some ReLU has not.
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
        scale = max(highs[name], SMALLEST) / (2**params.bits - 1)
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
    """The top of each range."""
    if params.calibration is Calibration.LEARNED:
        learned = learned_ranges(model)
        without = [name for name in names if name not in learned]
        if without:
            expected = "a network that was trained with activation_bits, for learned ranges"
            received = f"{without[0]!r} without a range"
            raise InvalidInputError("quantize_activations.calibration", expected, received)
        return {name: learned[name][1] for name in names}
    states = context.spread(params.states)
    ranges = activation_ranges(model, names, states, params.calibration, params.percentile)
    return {name: high for name, (_, high) in ranges.items()}
