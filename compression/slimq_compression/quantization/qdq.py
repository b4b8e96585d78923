"""Inserts QuantizeLinear and DequantizeLinear nodes, with ONNX Runtime's quantizer.

The quantizer does not choose for itself: it is given the range of every activation, the scale of
every weight, and the nodes to quantize.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from slimq.networks.export import INPUT, OUTPUT
from slimq_compression.graph.layers import output_axis, weight_rows
from slimq_compression.graph.model import (
    WEIGHTED,
    coded_nodes,
    copy_model,
    producers,
    remove_unused,
    sort_nodes,
    weighted_nodes,
)
from slimq_compression.quantization.levels import weight_scales

OPERATORS = ["Conv", "Gemm", "MatMul", "Relu", "Reshape", "Add", "Gather"]

Ranges = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Frames:
    """uint8 frames converted to floats.

    Attributes:
        codes: the uint8 tensor: the observation, or the window's part of it.
        tensor: the float tensor.
        scale: float value of a code of 1: 1/255, or 1 if 1/255 is folded into the weights.
    """

    codes: str
    tensor: str
    scale: float


@dataclass(frozen=True)
class Placement:
    """Settings of the quantizer.

    Attributes:
        layers: names of the layers to quantize.
        ranges: range of every activation.
        highest: largest weight code.
        per_channel: whether each output channel has its own weight scale.
        signed: whether activations are int8 rather than uint8.
        quantize_input: whether to quantize float observations.
    """

    layers: frozenset[str]
    ranges: Ranges
    highest: int
    per_channel: bool
    signed: bool
    quantize_input: bool


def activations_of(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that depend on the observation, in order: all but weight decoders."""
    reached, found = {INPUT}, []
    for node in model.graph.node:
        if not reached.isdisjoint(node.input):
            reached.update(node.output)
            found.append(node)
    return found


def quantizable_tensors(model: onnx.ModelProto) -> list[str]:
    """The float tensors whose range the quantizer may need, in order of computation."""
    inferred = onnx.shape_inference.infer_shapes(model)
    # Inference stops at non-standard operators, whose outputs are floats.
    others = {
        value.name
        for value in (*inferred.graph.value_info, *inferred.graph.output)
        if value.type.tensor_type.elem_type not in (TensorProto.UNDEFINED, TensorProto.FLOAT)
    }
    nodes = activations_of(model)
    quantizable = [node for node in nodes if node.op_type in OPERATORS]
    wanted = {name for node in quantizable for name in (node.output[0], *node.input)} - others
    return [name for node in nodes for name in node.output if name in wanted]


def scaled_frames(model: onnx.ModelProto) -> Frames | None:
    """Finds the conversion of uint8 frames to floats; None if observations are not frames."""
    codes = INPUT
    cast = next((node for node in model.graph.node if codes in node.input), None)
    while cast is not None and cast.op_type in ("Slice", "Transpose"):
        codes = cast.output[0]
        cast = next((node for node in model.graph.node if codes in node.input), None)
    if cast is None or cast.op_type != "Cast":
        return None
    readers = [node for node in model.graph.node if cast.output[0] in node.input]
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    if len(readers) == 1 and readers[0].op_type == "Mul" and readers[0].input[1] in stored:
        factor = numpy_helper.to_array(stored[readers[0].input[1]])
        if factor.size == 1:
            return Frames(codes, readers[0].output[0], float(factor.reshape(())))
    return Frames(codes, cast.output[0], 1.0)


def insert_qdq(model: onnx.ModelProto, placement: Placement) -> onnx.ModelProto:
    """Quantizes a copy of the model, in QDQ format."""
    bounds = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in placement.ranges.items()
    }
    chosen = [node for node in weighted_nodes(model) if node.name in placement.layers]
    typed = copy_model(model)
    # Type inference knows only standard operators.
    typed.graph.value_info.extend(
        helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
        for node in coded_nodes(model)
    )
    quantizer = QDQQuantizer(
        typed,
        per_channel=placement.per_channel,
        reduce_range=False,  # overridden by the scales below
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if placement.signed else QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, bounds),
        nodes_to_quantize=_quantized_nodes(model, placement),
        nodes_to_exclude=[],
        op_types_to_quantize=OPERATORS,
        extra_options={
            "TensorQuantOverrides": {
                node.input[1]: _weight_overrides(model, node, placement) for node in chosen
            }
        },
    )
    quantized = copy_model(quantizer.quantize_model())
    sort_nodes(quantized)
    _free_output(quantized)
    _feed_input(quantized, placement)
    return quantized


def _quantized_nodes(model: onnx.ModelProto, placement: Placement) -> list[str]:
    """The chosen layers, and nodes whose operands are all quantized."""
    coded: set[str] = set()
    names = []
    for node in activations_of(model):
        if node.op_type in WEIGHTED:
            quantized = node.name in placement.layers
        else:
            indices = node.input[1:] if node.op_type in ("Reshape", "Gather") else []
            operands = [name for name in node.input if name not in indices]
            quantized = node.op_type in OPERATORS and coded.issuperset(operands)
        if quantized:
            coded.update(node.output)
            names.append(node.name)
    return names


def _weight_overrides(
    model: onnx.ModelProto, node: onnx.NodeProto, placement: Placement
) -> list[dict[str, Any]]:
    """Scales per channel or per layer, in ONNX Runtime's format."""
    rows = weight_rows(model, node)
    if not placement.per_channel:
        rows = rows.reshape(1, -1)
    zero = np.array(0, np.int8)
    overrides: list[dict[str, Any]] = [
        {"quant_type": QuantType.QInt8, "scale": np.array(scale), "zero_point": zero}
        for scale in weight_scales(rows, placement.highest)
    ]
    if placement.per_channel:
        for override in overrides:
            override["axis"] = output_axis(node)
    return overrides


def _free_output(model: onnx.ModelProto) -> None:
    """Removes Q and DQ from the Q-values, so that the head returns floats; modifies `model`."""
    made_by = producers(model)
    last = made_by[OUTPUT]
    if last.op_type != "DequantizeLinear":
        return
    quantize = made_by[last.input[0]]
    head = made_by[quantize.input[0]]
    model.graph.node.remove(last)
    model.graph.node.remove(quantize)
    head.output[0] = OUTPUT
    remove_unused(model)


def _feed_input(model: onnx.ModelProto, placement: Placement) -> None:
    """Feeds frames to the first layer as codes, observations as floats; modifies `model`."""
    frames = scaled_frames(model)
    source = INPUT if frames is None else frames.tensor
    quantize = next(
        (n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == source),
        None,
    )
    if quantize is None:
        return
    dequantize = next(n for n in model.graph.node if quantize.output[0] in n.input)
    if frames is None:
        if placement.quantize_input:
            return
        for node in model.graph.node:
            for index, name in enumerate(node.input):
                if name == dequantize.output[0]:
                    node.input[index] = INPUT
    elif not placement.signed:
        dequantize.input[0] = frames.codes
    remove_unused(model)
