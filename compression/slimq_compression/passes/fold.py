"""Folds constants into weights: batch normalization and the input scale.

- **Batch normalization** (Ioffe & Szegedy 2015, arXiv:1502.03167) is affine per channel at
  inference, γ·(Wx + b − μ)/σ + β, and is folded into the preceding convolution (Jacob et al. 2018,
  1712.05877, §3.2). Quantize after this pass, since the folded weights are the ones multiplied.
- **The input scale 1/255** is folded into the weights of the layers that read the frames, which
  then take integers from 0 to 255.
- **Constant nodes** of imported models become initializers.

It costs nothing; Q-values change only by float rounding, and a tiny network saves a few
microseconds. It does not suit quantized weights, which 1/255 and γ/σ move off their levels: fold
first, or leave the input scale of a quantized network alone (`input_scale = false`); int8 takes
frames as codes anyway.
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
    """Constants to fold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_norm: bool = Field(
        default=True, description="fold batch normalization into the preceding convolution"
    )
    input_scale: bool = Field(
        default=True, description="fold the scale of integer frames into the layers that read them"
    )


def apply(model: onnx.ModelProto, params: Params, context: PassContext) -> onnx.ModelProto:  # noqa: ARG001
    """Makes an equivalent model with fewer nodes.

    Raises:
        InvalidInputError: a batch normalization does not follow a convolution that it can be folded
            into, or a node other than a layer with float weights reads the scaled frames.
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
    """Converts Constant nodes to initializers; modifies `model`."""
    for node in [n for n in model.graph.node if n.op_type == "Constant"]:
        value = next((entry.t for entry in node.attribute if entry.name == "value"), None)
        if value is None:
            continue
        stored = model.graph.initializer.add()
        stored.CopyFrom(value)
        stored.name = node.output[0]
        model.graph.node.remove(node)


def _fold_normalization(model: onnx.ModelProto, norm: onnx.NodeProto) -> None:
    """Folds a normalization into its convolution, which takes its output's name."""
    made_by = producers(model)
    layer = made_by.get(norm.input[0])
    readers = [node for node in model.graph.node if norm.input[0] in node.input]
    if layer is None or layer.name not in float_layers(model, ("Conv",)) or len(readers) > 1:
        expected = "batch normalization directly after a convolution with float weights"
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
    """Folds the scale into the layers that read the scaled frames; modifies `model`."""
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
    """A tensor in float64, so that products are rounded only once."""
    return numpy_helper.to_array(tensor).astype(np.float64)


def _store(tensor: onnx.TensorProto, values: npt.NDArray[np.float64]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
