"""Folds what is constant into the weights: batch normalization, and the scale of the frames.

- **Batch normalization** (Ioffe & Szegedy 2015, arXiv:1502.03167) in use is affine in each channel,
  γ·(Wx + b − μ)/σ + β: the convolution in front of it takes it in (Jacob et al. 2018, 1712.05877,
  §3.2). Quantization has to come after this, for it is the folded weights that are multiplied.
- **The input's 1/255** goes into the weights of the layers that read the frames, which then take
  whole numbers from 0 to 255.
- **Constant nodes**, which imported models have, become initializers.

Costs nothing; Q-values change by float rounding alone, and a tiny network saves a few microseconds.
It fails where the weights are on levels: 1/255 and γ/σ take them off, so fold first or leave the
scale of a quantized network alone (`input_scale = false`); int8 takes frames as codes anyway.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from pydantic import BaseModel, ConfigDict, Field

from slimq.core.errors import InvalidInputError
from slimq_compression.context import PassContext
from slimq_compression.graph.layers import float_layers
from slimq_compression.graph.model import copy_model, producers, remove_unused
from slimq_compression.quantization.qdq import scaled_frames


class Params(BaseModel):
    """What is folded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_norm: bool = Field(
        default=True, description="into the convolution in front of each batch normalization"
    )
    input_scale: bool = Field(
        default=True, description="the scale of integer frames, into the layers that read them"
    )


def apply(model: onnx.ModelProto, params: Params, context: PassContext) -> onnx.ModelProto:  # noqa: ARG001
    """The same function in fewer nodes.

    Raises:
        InvalidInputError: a batch normalization stands behind no convolution of its own, or
            something other than a layer with float weights reads the scaled frames.
    """
    folded = copy_model(model)
    _store_constants(folded)
    if params.batch_norm:
        for node in [n for n in folded.graph.node if n.op_type == "BatchNormalization"]:
            _fold_normalization(folded, node)
    if params.input_scale:
        _fold_input_scale(folded)
    remove_unused(folded)
    return folded


def _store_constants(model: onnx.ModelProto) -> None:
    """Makes initializers of Constant nodes; changes `model`."""
    for node in [n for n in model.graph.node if n.op_type == "Constant"]:
        value = next((entry.t for entry in node.attribute if entry.name == "value"), None)
        if value is None:
            continue
        stored = model.graph.initializer.add()
        stored.CopyFrom(value)
        stored.name = node.output[0]
        model.graph.node.remove(node)


def _fold_normalization(model: onnx.ModelProto, norm: onnx.NodeProto) -> None:
    """Into the convolution, whose output takes the name of what the normalization gave."""
    made_by = producers(model)
    layer = made_by.get(norm.input[0])
    readers = [node for node in model.graph.node if norm.input[0] in node.input]
    if layer is None or layer.name not in float_layers(model, ("Conv",)) or len(readers) > 1:
        expected = "batch normalization right behind a convolution with float weights"
        raise InvalidInputError("fold.batch_norm", expected, f"the node {norm.name!r}")
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    gamma, beta, mean, variance = (_exactly(stored[name]) for name in norm.input[1:5])
    epsilon = next((entry.f for entry in norm.attribute if entry.name == "epsilon"), 1e-5)
    factor = gamma / np.sqrt(variance + epsilon)

    weight = _exactly(stored[layer.input[1]])
    _store(stored[layer.input[1]], weight * factor.reshape(-1, *[1] * (weight.ndim - 1)))
    if len(layer.input) > 2:
        bias = stored[layer.input[2]]
        _store(bias, (_exactly(bias) - mean) * factor + beta)
    else:
        name = f"{layer.name}.bias"
        bias = numpy_helper.from_array((beta - mean * factor).astype(np.float32), name)
        model.graph.initializer.append(bias)
        layer.input.append(name)
    layer.output[0] = norm.output[0]
    model.graph.node.remove(norm)


def _fold_input_scale(model: onnx.ModelProto) -> None:
    """Into the layers that read the scaled frames; changes `model`."""
    frames = scaled_frames(model)
    if frames is None or frames.scale == 1.0:
        return
    scaling = producers(model)[frames.tensor]
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = float_layers(model)
    for node in model.graph.node:
        if frames.tensor not in node.input:
            continue
        if node.name not in layers:
            expected = f"only layers with float weights that read {frames.tensor!r}, or false"
            raise InvalidInputError("fold.input_scale", expected, f"the node {node.name!r}")
        weight = stored[node.input[1]]
        _store(weight, _exactly(weight) * frames.scale)
        node.input[0] = scaling.input[0]


def _exactly(tensor: onnx.TensorProto) -> npt.NDArray[np.float64]:
    """In float64, so that a product is rounded once."""
    return numpy_helper.to_array(tensor).astype(np.float64)


def _store(tensor: onnx.TensorProto, values: npt.NDArray[np.float64]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
