"""The ONNX exporter: turns a Q-network into an ONNX graph, always with the same bytes.

The graph is built with `onnx.helper` from the network's modules rather than traced by
`torch.onnx.export`: names are canonical (passes find a layer by its name), nothing in the file
depends on the exporter's version or on the clock, and it takes milliseconds where the dynamo
exporter takes seconds. The graph equals the traced one after optimization. The feature map is
flattened with Reshape, because the dense layer after a Flatten is not fused once it is quantized.
Learned activation ranges are included as metadata, for the quantization pass.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from slimq.networks.qnetwork import ChannelShuffle, QNetwork, Residual, named_layers
from slimq.networks.specification import ConvSpec, QNetworkSpec

OPSET = 21
"""Default: the first opset whose QuantizeLinear and DequantizeLinear support 4-bit integers."""

INPUT, OUTPUT = "observation", "q_values"
PRODUCER = "slimq"
RANGES = "slimq.ranges"
"""Metadata key of the learned activation ranges: a JSON object of `[low, high]` by tensor name."""


def export_onnx(network: QNetwork, opset: int = OPSET) -> bytes:
    """Exports a network to ONNX: `observation (batch, *shape)` to `q_values (batch, actions)`.

    Layers are named `conv1`, `conv2`, …, `dense1`, … and `head`. The parameters of `conv1` are
    `conv1.weight` and `conv1.bias`, its pre-activation is `conv1`, its activation `conv1.relu`, and
    a batch normalization between them `conv1.norm`.

    Args:
        network: on any device; exported as in evaluation mode, and not modified.
        opset: opset of the default domain.
    """
    spec = network.spec
    graph = _Graph(network)
    current = graph.window(spec)
    if spec.observation_dtype == "uint8":
        current = graph.add("Cast", [current], "frames", to=TensorProto.FLOAT)
        scale = graph.constant("scale", np.array(1.0 / 255.0, np.float32))
        current = graph.add("Mul", [current, scale], "scaled")
    current = graph.chain(network.features, current)
    graph.add("Gemm", [current, *graph.parameters(network.head, "head")], OUTPUT, transB=1)
    graph.nodes[-1].name = "head"

    element = helper.np_dtype_to_tensor_dtype(np.dtype(spec.observation_dtype))
    shape_in: list[str | int | None] = ["batch", *spec.observation_shape]
    made = helper.make_graph(
        graph.nodes,
        "q_network",
        [helper.make_tensor_value_info(INPUT, element, shape_in)],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", spec.actions])],
        graph.weights,
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(
        made,
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name=PRODUCER,
    )
    if network.ranges:
        helper.set_model_props(model, {RANGES: json.dumps(network.ranges, sort_keys=True)})
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


class _Graph:
    """Collects nodes and weights, module by module."""

    def __init__(self, network: QNetwork) -> None:
        self.flat_width = network.spec.flat_width
        self.channels = network.spec.seen_shape[0] if isinstance(network.spec.body, ConvSpec) else 0
        self.background = network.background
        self.names = {id(module): name for name, module in named_layers(network).items()}
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.layer = ""
        self.blocks = self.shuffles = 0

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, values: np.ndarray[Any, Any]) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def parameters(self, module: nn.Module, name: str) -> list[str]:
        return [
            self.constant(f"{name}.{kind}", _array(tensor))
            for kind, tensor in module.named_parameters()
        ]

    def window(self, spec: QNetworkSpec) -> str:
        """Crops the observation to the network's window, before the cast from bytes."""
        if not isinstance(spec.body, ConvSpec) or spec.body.window is None:
            return INPUT
        channels, height, width = spec.observation_shape
        spans = spec.body.window.spans((channels, height, width))
        starts, stops = zip(*spans, strict=True)
        bounds = {"starts": starts, "stops": stops, "axes": (1, 2, 3)}
        inputs = [self.constant(f"window.{k}", np.array(v, np.int64)) for k, v in bounds.items()]
        return self.add("Slice", [INPUT, *inputs], "window")

    def chain(self, modules: Iterable[nn.Module], current: str) -> str:
        """Adds modules in sequence; returns the name of the last output."""
        for module in modules:
            current = self.module(module, current)
        return current

    def module(self, module: nn.Module, current: str) -> str:
        match module:
            case nn.Conv2d():
                return self.convolution(module, current)
            case nn.Linear():
                self.layer = self.names[id(module)]
                inputs = [current, *self.parameters(module, self.layer)]
                return self.add("Gemm", inputs, self.layer, transB=1)
            case nn.BatchNorm2d():
                return self.normalization(module, current)
            case nn.ReLU():
                return self.add("Relu", [current], f"{self.layer}.relu")
            case nn.Flatten():
                shape = self.constant("flat.shape", np.array([-1, self.flat_width], np.int64))
                return self.add("Reshape", [current, shape], "flat")
            case ChannelShuffle():
                return self.shuffle(module, current)
            case Residual():
                self.blocks += 1
                name = f"residual{self.blocks}"
                return self.add("Add", [current, self.chain(module.body, current)], name)
        raise TypeError(f"the exporter does not support {type(module).__name__}")

    def convolution(self, module: nn.Conv2d, current: str) -> str:
        self.layer = self.names[id(module)]
        inputs = [current, *self.parameters(module, self.layer)]
        if self.layer == "conv1" and self.background:
            self._fold_background(module)
        attributes: dict[str, Any] = {
            "kernel_shape": list(module.kernel_size),
            "strides": list(module.stride),
        }
        if any(module.padding):
            attributes["pads"] = [int(p) for p in module.padding] * 2
        if module.groups > 1:
            attributes["group"] = module.groups
        return self.add("Conv", inputs, self.layer, **attributes)

    def _fold_background(self, module: nn.Conv2d) -> None:
        """Folds the background into the bias: without padding, W(x − μ) + b = Wx + (b − μΣW)."""
        if module.bias is None:
            raise TypeError("the exporter needs a bias to fold the background into")
        offset = self.background * module.weight.detach().double().flatten(1).sum(dim=1)
        bias = (module.bias.detach().double() - offset).float().cpu().numpy()
        self.weights[-1].CopyFrom(numpy_helper.from_array(bias, f"{self.layer}.bias"))

    def normalization(self, module: nn.BatchNorm2d, current: str) -> str:
        name = f"{self.layer}.norm"
        inputs = [current, *self.parameters(module, name)]
        for kind, tensor in (("mean", module.running_mean), ("variance", module.running_var)):
            if tensor is None:
                raise TypeError("the exporter needs batch normalization with running statistics")
            inputs.append(self.constant(f"{name}.{kind}", _array(tensor)))
        return self.add("BatchNormalization", inputs, name, epsilon=module.eps)

    def shuffle(self, module: ChannelShuffle, current: str) -> str:
        """Adds a Gather over the channels, which copies whole planes."""
        before = (
            len(_array_of(self.weights, node.input[1]))
            for node in reversed(self.nodes)
            if node.op_type == "Conv"
        )
        channels = next(before, self.channels)
        self.shuffles += 1
        name = f"shuffle{self.shuffles}"
        order = np.arange(channels, dtype=np.int64).reshape(module.groups, -1).T.flatten()
        return self.add("Gather", [current, self.constant(f"{name}.order", order)], name, axis=1)


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = tensor.detach().float().cpu().numpy()
    return values


def _array_of(weights: list[onnx.TensorProto], name: str) -> np.ndarray[Any, Any]:
    return numpy_helper.to_array(next(tensor for tensor in weights if tensor.name == name))
