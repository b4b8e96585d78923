"""The one ONNX exporter: a Q-network as an ONNX graph, the same network always as the same bytes.

The graph is built with `onnx.helper` from the network's specification, not traced by
`torch.onnx.export`: the names are canonical (passes find a layer by its name), nothing in the file
depends on the exporter's version or on the clock, and it takes milliseconds where the dynamo
exporter takes seconds. The graph is what tracing gives after optimisation. The feature map is
flattened with Reshape, because the dense layer after a Flatten is not fused once it is quantized.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from slimq.networks.qnetwork import QNetwork

OPSET = 21
"""Default: the first opset whose QuantizeLinear and DequantizeLinear know 4-bit integers."""

INPUT, OUTPUT = "observation", "q_values"
PRODUCER = "slimq"


def export_onnx(network: QNetwork, opset: int = OPSET) -> bytes:
    """The network as ONNX: `observation (batch, *shape)` to `q_values (batch, actions)`.

    Layers are named `conv1`, `conv2`, …, `dense1`, … and `head`. The parameters of `conv1` are
    `conv1.weight` and `conv1.bias`, its pre-activation is `conv1`, its activation `conv1.relu`.

    Args:
        network: on any device; it is not changed.
        opset: of the default domain.
    """
    spec = network.spec
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def add(operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(name: str, values: np.ndarray[Any, Any]) -> str:
        weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def parameters(module: nn.Conv2d | nn.Linear, name: str) -> list[str]:
        return [
            constant(f"{name}.{kind}", tensor.detach().float().cpu().numpy())
            for kind, tensor in module.named_parameters()
        ]

    current = INPUT
    if spec.observation_dtype == "uint8":
        current = add("Cast", [current], "frames", to=TensorProto.FLOAT)
        scale = constant("scale", np.array(1.0 / 255.0, np.float32))
        current = add("Mul", [current, scale], "scaled")
    layer, convolutions, dense = current, 0, 0
    for module in network.features:
        if isinstance(module, nn.Conv2d):
            convolutions += 1
            layer = f"conv{convolutions}"
            inputs = [current, *parameters(module, layer)]
            strides, kernel = list(module.stride), list(module.kernel_size)
            current = add("Conv", inputs, layer, kernel_shape=kernel, strides=strides)
        elif isinstance(module, nn.Linear):
            dense += 1
            layer = f"dense{dense}"
            current = add("Gemm", [current, *parameters(module, layer)], layer, transB=1)
        elif isinstance(module, nn.ReLU):
            current = add("Relu", [current], f"{layer}.relu")
        elif isinstance(module, nn.Flatten):
            width = _flat_width(network)
            shape = constant("flat.shape", np.array([-1, width], np.int64))
            current = add("Reshape", [current, shape], "flat")
        else:
            raise TypeError(f"the exporter does not know {type(module).__name__}")
    add("Gemm", [current, *parameters(network.head, "head")], OUTPUT, transB=1)
    nodes[-1].name = "head"

    element = helper.np_dtype_to_tensor_dtype(np.dtype(spec.observation_dtype))
    shape_in: list[str | int | None] = ["batch", *spec.observation_shape]
    graph = helper.make_graph(
        nodes,
        "q_network",
        [helper.make_tensor_value_info(INPUT, element, shape_in)],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", spec.actions])],
        weights,
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(
        graph,
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name=PRODUCER,
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _flat_width(network: QNetwork) -> int:
    """Width of the first dense layer's input."""
    linear = [m for m in [*network.features, network.head] if isinstance(m, nn.Linear)]
    return linear[0].in_features
