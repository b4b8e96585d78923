"""The ONNX exporter: turns a Q-network into an ONNX graph, always with the same bytes.

The graph is built with `onnx.helper` from the network's modules rather than traced by
`torch.onnx.export`: names are canonical (passes find a layer by its name), nothing in the file
depends on the exporter's version or on the clock, and it takes milliseconds where the dynamo
exporter takes seconds. The graph equals the traced one after optimization. The feature map is
flattened with Reshape, because the dense layer after a Flatten is not fused once it is quantized.
Learned activation ranges are included as metadata, for the quantization pass.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from slimq.core.errors import InvalidInputError
from slimq.networks.heads import Head
from slimq.networks.inputs import Branches, Crop, Flatten, Normalize, Part
from slimq.networks.qnetwork import ChannelShuffle, QNetwork, Residual, named_layers
from slimq.networks.specification import ConvSpec

OPSET = 21
"""Default opset, the first whose QuantizeLinear and DequantizeLinear support 4-bit integers."""

INPUT, OUTPUT = "observation", "q_values"
PRODUCER = "slimq"
GELU_OPSET = 20
"""The first opset that has Gelu."""
_ACTIVATIONS: dict[type[nn.Module], tuple[str, str, dict[str, float]]] = {
    nn.ReLU: ("relu", "Relu", {}),
    nn.LeakyReLU: ("leaky_relu", "LeakyRelu", {"alpha": 0.01}),
    nn.ELU: ("elu", "Elu", {"alpha": 1.0}),
    nn.SiLU: ("silu", "Sigmoid", {}),
    nn.GELU: ("gelu", "Gelu", {}),
    nn.Tanh: ("tanh", "Tanh", {}),
}
RANGES = "slimq.ranges"
"""Metadata key of the learned activation ranges: a JSON object of `[low, high]` by tensor name."""


def export_onnx(network: QNetwork, opset: int = OPSET) -> bytes:
    """Exports a network to ONNX: `observation (batch, *shape)` to `q_values (batch, actions)`.

    Layers have the names of `named_layers`: `conv1`, `conv2`, …, `dense1`, … and `head`. The
    parameters of `conv1` are `conv1.weight` and `conv1.bias`, its pre-activation is `conv1`, its
    activation `conv1.relu`, and a normalization between them `conv1.norm`.

    Args:
        network: a network on any device; exported as in evaluation mode, and not modified.
        opset: opset of the default domain.
    """
    spec = network.spec
    graph = _Graph(network, opset)
    current = graph.inputs(network)
    current = graph.chain(network.features, current)
    graph.head(network.head, current)

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

    def __init__(self, network: QNetwork, opset: int) -> None:
        self.opset = opset
        self.background = network.background
        self.names = {id(module): name for name, module in named_layers(network).items()}
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.layer = ""
        self.part_shape: tuple[int, ...] = ()
        self.counts: collections.Counter[str] = collections.Counter()

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

    def numbered(self, kind: str) -> str:
        """A unique name: `kind` the first time, then `kind2` and so on."""
        self.counts[kind] += 1
        return kind if self.counts[kind] == 1 else f"{kind}{self.counts[kind]}"

    def inputs(self, network: QNetwork) -> str:
        """Adds the nodes from the observation to the float inputs of the features."""
        spec, current = network.spec, INPUT
        if network.normalize is not None:
            current = self.normalized(network.normalize, current)
        if isinstance(spec.body, ConvSpec):
            current = self.crop(Crop(spec.body), current, spec.observation_shape)
        if spec.observation_parts is not None:
            if spec.observation_dtype != "float32":
                current = self.add("Cast", [current], "numbers", to=TensorProto.FLOAT)
            return current
        if spec.observation_dtype != "float32":
            current = self.add("Cast", [current], "frames", to=TensorProto.FLOAT)
            if spec.divisor != 1.0:
                scale = self.constant("scale", np.array(1.0 / spec.divisor, np.float32))
                current = self.add("Mul", [current, scale], "scaled")
        return current

    def normalized(self, module: Normalize, current: str) -> str:
        mean = self.constant("normalize.mean", _array(module.mean))
        scale = self.constant("normalize.scale", _array(module.scale))
        current = self.add("Sub", [current, mean], "centred")
        current = self.add("Mul", [current, scale], "normalized")
        if module.clip is None:
            return current
        bounds = [
            self.constant(f"normalize.{name}", np.array(value, np.float32))
            for name, value in (("low", -module.clip), ("high", module.clip))
        ]
        return self.add("Clip", [current, *bounds], "clipped")

    def crop(self, module: Crop, current: str, shape: tuple[int, ...]) -> str:
        """Moves channels first and crops to the window, before the cast from bytes."""
        if module.body.channels == "last":
            name = self.numbered("channels_first")
            current = self.add("Transpose", [current], name, perm=[0, 3, 1, 2])
            shape = (shape[2], *shape[:2])
        if module.body.window is None:
            return current
        channels, height, width = shape
        starts, stops = zip(*module.body.window.spans((channels, height, width)), strict=True)
        return self.slice(current, self.numbered("window"), starts, stops)

    def slice(self, current: str, name: str, starts: Sequence[int], stops: Sequence[int]) -> str:
        """Adds a Slice of a range of every axis after the batch."""
        axes = range(1, len(starts) + 1)
        bounds = {"starts": starts, "stops": stops, "axes": axes}
        inputs = [self.constant(f"{name}.{k}", np.array(v, np.int64)) for k, v in bounds.items()]
        return self.add("Slice", [current, *inputs], name)

    def part(self, module: Part, current: str) -> str:
        """Adds the nodes that encode one part of a flat observation."""
        name = self.numbered("part")
        if module.part.categories is not None:
            columns = self.constant(f"{name}.columns", module.columns.cpu().numpy())
            values = self.constant(f"{name}.values", _array(module.values))
            current = self.add("Gather", [current, columns], f"{name}.elements", axis=1)
            current = self.add("Equal", [current, values], f"{name}.equal")
            return self.add("Cast", [current], name, to=TensorProto.FLOAT)
        current = self.slice(current, name, [module.start], [module.start + module.part.size])
        if module.divisor != 1.0:
            scale = self.constant(f"{name}.scale", np.array(1.0 / module.divisor, np.float32))
            current = self.add("Mul", [current, scale], f"{name}.scaled")
        if module.shaped:
            shape = self.constant(f"{name}.shape", np.array([-1, *module.part.shape], np.int64))
            current = self.add("Reshape", [current, shape], f"{name}.shaped")
        self.part_shape = module.part.shape
        return current

    def head(self, module: nn.Linear | Head, current: str) -> None:
        """Adds the layers from the last hidden activation to the Q-values."""
        if isinstance(module, nn.Linear):
            self.add("Gemm", [current, *self.parameters(module, "head")], OUTPUT, transB=1)
            self.nodes[-1].name = "head"
            return
        value = None if module.value is None else self.chain(module.value, current)
        values = self.chain(module.advantage, current)
        atoms = len(module.support)
        if atoms:
            shape = np.array([-1, module.actions, atoms], np.int64)
            values = self.add("Reshape", [values, self.constant("atoms.shape", shape)], "atoms")
            if value is not None:
                shape = np.array([-1, 1, atoms], np.int64)
                given = [value, self.constant("value.shape", shape)]
                value = self.add("Reshape", given, "value.atoms")
        if value is not None:
            mean = self.mean_of(values)
            values = self.add("Sub", [values, mean], "relative")
            values = self.add("Add", [value, values], "dueling" if atoms else OUTPUT)
        if atoms:
            values = self.add("Softmax", [values], "probabilities", axis=2)
            support = self.constant("support", _array(module.support))
            values = self.add("Mul", [values, support], "weighted")
            axes = self.constant("sum.axes", np.array([2], np.int64))
            self.add("ReduceSum", [values, axes], OUTPUT, keepdims=0)

    def mean_of(self, values: str) -> str:
        """Adds a mean over actions; ReduceMean's axes became an input with opset 18."""
        if self.opset < 18:
            return self.add("ReduceMean", [values], "mean", axes=[1], keepdims=1)
        axes = self.constant("mean.axes", np.array([1], np.int64))
        return self.add("ReduceMean", [values, axes], "mean", keepdims=1)

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
            case nn.LayerNorm():
                name = f"{self.layer}.norm"
                inputs = [current, *self.parameters(module, name)]
                axis, epsilon = -len(module.normalized_shape), module.eps
                return self.add("LayerNormalization", inputs, name, axis=axis, epsilon=epsilon)
            case Flatten():
                name = self.numbered("flat")
                shape = self.constant(f"{name}.shape", np.array([-1, module.width], np.int64))
                return self.add("Reshape", [current, shape], name)
            case ChannelShuffle():
                return self.shuffle(module, current)
            case Residual():
                self.counts["residual"] += 1
                name = f"residual{self.counts['residual']}"
                return self.add("Add", [current, self.chain(module.body, current)], name)
            case Branches():
                outputs = [self.chain(branch.children(), current) for branch in module.branches]
                return (
                    outputs[0]
                    if len(outputs) == 1
                    else self.add("Concat", outputs, "parts", axis=1)
                )
            case Part():
                return self.part(module, current)
            case Crop():
                return self.crop(module, current, self.part_shape)
            case _ if type(module) in _ACTIVATIONS:
                return self.activation(module, current)
        raise TypeError(f"the exporter does not support {type(module).__name__}")

    def activation(self, module: nn.Module, current: str) -> str:
        kind, operator, attributes = _ACTIVATIONS[type(module)]
        name = f"{self.layer}.{kind}"
        if operator == "Sigmoid":
            gate = self.add("Sigmoid", [current], f"{self.layer}.sigmoid")
            return self.add("Mul", [current, gate], name)
        if operator == "Gelu" and self.opset < GELU_OPSET:
            expected = f"at least {GELU_OPSET} for a network with gelu"
            raise InvalidInputError("export.opset", expected, str(self.opset))
        return self.add(operator, [current], name, **attributes)

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
        self.counts["shuffle"] += 1
        name = f"shuffle{self.counts['shuffle']}"
        order = np.arange(module.channels, dtype=np.int64).reshape(module.groups, -1).T.flatten()
        return self.add("Gather", [current, self.constant(f"{name}.order", order)], name, axis=1)


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = tensor.detach().float().cpu().numpy()
    return values
