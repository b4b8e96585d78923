"""Graphs of networks whose dense layers have another activation than their convolutions."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper

from slimq.networks.export import export_onnx
from slimq.networks.qnetwork import QNetwork
from slimq.networks.specification import Activation

OPERATORS: dict[Activation, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.01}),
    "elu": ("Elu", {"alpha": 1.0}),
    "gelu": ("Gelu", {}),
    "tanh": ("Tanh", {}),
}


def replace_activations(
    network: QNetwork, *, first: int, count: int, activation: Activation
) -> bytes:
    """Exports a network with ReLUs, then replaces those of some dense layers.

    Args:
        network: the network.
        first: number of the first dense layer, from 1 on.
        count: how many layers.
        activation: the nonlinearity after them.
    """
    model = onnx.load_model_from_string(export_onnx(network))
    names = {f"dense{index}.relu" for index in range(first, first + count)}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "Relu" or node.output[0] not in names:
            nodes.append(node)
            continue
        source, target = node.input[0], node.output[0]
        if activation == "silu":
            gate = f"{target}.gate"
            nodes.append(helper.make_node("Sigmoid", [source], [gate], name=gate))
            nodes.append(helper.make_node("Mul", [source, gate], [target], name=target))
        else:
            operator, attributes = OPERATORS[activation]
            nodes.append(helper.make_node(operator, [source], [target], target, **attributes))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))
