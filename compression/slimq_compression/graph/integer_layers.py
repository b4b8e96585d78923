"""Dense layers as single ONNX Runtime operators on integer weights.

Builders and decoders are side by side, so that each format is defined in one place:

- `MatMulNBits` computes with 4-bit weights in blocks, each with its own scale; activations are
  quantized to 8 bits on the fly, block by block (accuracy level 4).
- `DynamicQuantizeMatMul` computes with 8-bit weights; each call determines the range of its
  activations.

Both are in the domain `com.microsoft`, which every CPU build of ONNX Runtime has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

DOMAIN = "com.microsoft"
BLOCKS, DYNAMIC = "MatMulNBits", "DynamicQuantizeMatMul"
CODED = (BLOCKS, DYNAMIC)
"""Operators whose second input is integer codes."""

ZERO_CODE = 8
"""The unsigned 4-bit code of 0 if there are no zero points."""

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]
Tensors = dict[str, npt.NDArray[Any]]


def blocks_layer(
    node: onnx.NodeProto, codes: Codes, scales: Floats, width: int
) -> tuple[onnx.NodeProto, Tensors]:
    """Makes a dense layer with 4-bit weights.

    Args:
        node: the layer to replace; its name, input, bias and output are kept.
        codes: `(outputs, blocks, block size)`, from -8 to 7, the last block padded with 0.
        scales: `(outputs, blocks)`.
        width: number of inputs, without padding.

    Returns:
        The node and its new initializers by name.
    """
    unsigned = (codes.astype(np.int16) + ZERO_CODE).astype(np.uint8)
    names, bias = [f"{node.name}.codes", f"{node.name}.scales"], _bias(node)
    made = helper.make_node(
        BLOCKS,
        [node.input[0], *names, *(["", "", bias] if bias else [])],
        [node.output[0]],
        name=node.name,
        domain=DOMAIN,
        K=width,
        N=len(codes),
        bits=4,
        block_size=codes.shape[2],
        accuracy_level=4,
    )
    packed = unsigned[:, :, 0::2] | (unsigned[:, :, 1::2] << 4)
    return made, dict(zip(names, (packed, scales), strict=True))


def dynamic_layer(
    node: onnx.NodeProto, codes: Codes, scales: Floats
) -> tuple[onnx.NodeProto, Tensors]:
    """Makes a dense layer with 8-bit weights and activations quantized on the fly.

    Args:
        node: the layer to replace; its name, input, bias and output are kept.
        codes: `(outputs, inputs)`.
        scales: `(outputs,)`, or `(1,)` for a common scale.

    Returns:
        The node and its new initializers by name.
    """
    names, bias = [f"{node.name}.codes", f"{node.name}.scales"], _bias(node)
    made = helper.make_node(
        DYNAMIC,
        [node.input[0], *names, *(["", bias] if bias else [])],
        [node.output[0]],
        name=node.name,
        domain=DOMAIN,
    )
    return made, dict(zip(names, (np.ascontiguousarray(codes.T), scales), strict=True))


def replace(
    model: onnx.ModelProto, node: onnx.NodeProto, made: onnx.NodeProto, tensors: Tensors
) -> None:
    """Replaces `node` of `model` with a coded layer and its initializers; modifies both."""
    node.CopyFrom(made)
    model.graph.initializer.extend(
        numpy_helper.from_array(values, name) for name, values in tensors.items()
    )
    if DOMAIN not in {entry.domain for entry in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def decode(node: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> dict[str, Floats]:
    """Decodes the weight `(outputs, inputs)` and bias of a coded layer, by tensor name.

    Args:
        node: one of `CODED`.
        stored: the model's initializers by name.
    """
    codes, scales = (numpy_helper.to_array(stored[name]) for name in node.input[1:3])
    if node.op_type == BLOCKS:
        outputs, width = (_attribute(node, name) for name in ("N", "K"))
        pairs = np.stack([codes & 0x0F, codes >> 4], axis=-1).reshape(*codes.shape[:2], -1)
        levels = pairs.astype(np.float32) - ZERO_CODE
        weight = (levels * scales[:, :, None]).reshape(outputs, -1)[:, :width]
    else:
        weight = (codes.astype(np.float32) * scales).T
    values = {node.input[1]: weight}
    bias = node.input[-1]
    if len(node.input) > 3 and bias in stored:
        values[bias] = numpy_helper.to_array(stored[bias])
    return values


def precision(node: onnx.NodeProto) -> str:
    """Precision of a coded layer's weights, such as `int4`."""
    return f"int{_attribute(node, 'bits') if node.op_type == BLOCKS else 8}"


def _bias(node: onnx.NodeProto) -> str:
    """Name of a dense layer's bias; "" if it has none."""
    return node.input[2] if len(node.input) > 2 else ""


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return int(next(entry.i for entry in node.attribute if entry.name == name))
