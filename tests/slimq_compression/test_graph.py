from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from slimq.networks.export import export_onnx
from slimq.networks.qnetwork import count_parameters
from slimq_compression.graph import (
    count_weights,
    decoded_weights,
    describe_precision,
    remove_unused,
    run_tensors,
    sort_nodes,
    to_bytes,
)


@pytest.fixture
def coded_model() -> onnx.ModelProto:
    """`q_values = observation @ (table[codes] * scale)`, of codes 2, 0, 1, 2."""
    nodes = [
        helper.make_node("Gather", ["table", "codes"], ["flat"]),
        helper.make_node("Mul", ["flat", "scale"], ["weight"]),
        helper.make_node("MatMul", ["observation", "weight"], ["q_values"]),
    ]
    constants = {
        "table": np.array([0.0, 1.0, -1.0], np.float32),
        "codes": np.array([[2, 0], [1, 2]], np.int64),
        "scale": np.array(0.5, np.float32),
        "left_over": np.zeros(3, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "coded",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("q_values", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_weights_are_counted_as_the_layers_see_them_not_as_they_are_stored(coded_model) -> None:
    (weight,) = decoded_weights(coded_model).values()
    np.testing.assert_array_equal(weight, [[-0.5, 0.0], [0.5, -0.5]])
    assert count_weights(coded_model) == (4, 3)


def test_the_count_of_an_exported_network_is_that_of_the_network(make_network) -> None:
    network = make_network("conv")
    model = onnx.load_model_from_string(export_onnx(network))
    assert count_weights(model)[0] == count_parameters(network)
    assert describe_precision(model) == "fp32"


def test_inner_tensors_are_computed_batch_by_batch(make_network, make_states) -> None:
    network = make_network("mlp")
    model = onnx.load_model_from_string(export_onnx(network))
    states = make_states("mlp", 100)
    batches = list(run_tensors(model, ["dense1", "q_values"], states))
    assert [len(batch["dense1"]) for batch in batches] == [64, 36]
    weight = network.features[0].weight.detach().numpy()
    wanted = states @ weight.T + network.features[0].bias.detach().numpy()
    np.testing.assert_allclose(np.concatenate([b["dense1"] for b in batches]), wanted, atol=1e-5)


def test_nodes_are_put_in_order_of_computation(coded_model) -> None:
    nodes = list(coded_model.graph.node)
    del coded_model.graph.node[:]
    coded_model.graph.node.extend(reversed(nodes))
    sort_nodes(coded_model)
    assert [node.op_type for node in coded_model.graph.node] == ["Gather", "Mul", "MatMul"]


def test_what_depends_on_constants_alone_comes_first(coded_model) -> None:
    nodes = list(coded_model.graph.node)
    nodes[2].input[0] = "twice"
    del coded_model.graph.node[:]
    twice = helper.make_node("Add", ["observation", "observation"], ["twice"])
    coded_model.graph.node.extend([nodes[2], twice, nodes[0], nodes[1]])
    sort_nodes(coded_model)
    order = ["Gather", "Mul", "Add", "MatMul"]
    assert [node.op_type for node in coded_model.graph.node] == order


def test_a_cycle_has_no_order(coded_model) -> None:
    coded_model.graph.node[0].input[0] = "weight"
    with pytest.raises(ValueError, match="cycle"):
        sort_nodes(coded_model)


def test_what_nothing_reads_is_removed(coded_model) -> None:
    coded_model.graph.node.append(helper.make_node("Relu", ["flat"], ["nowhere"]))
    remove_unused(coded_model)
    assert [node.op_type for node in coded_model.graph.node] == ["Gather", "Mul", "MatMul"]
    assert {t.name for t in coded_model.graph.initializer} == {"table", "codes", "scale"}


def test_a_file_tells_neither_the_tool_nor_notes_and_leaves_the_model_alone(coded_model) -> None:
    plain = to_bytes(coded_model)
    coded_model.doc_string = "made today"
    coded_model.graph.node[0].doc_string = "here"
    coded_model.producer_name = "other"
    assert to_bytes(coded_model) == plain
    assert coded_model.doc_string == "made today"


def test_an_exported_network_passes_through_unchanged(make_network) -> None:
    content = export_onnx(make_network("conv"))
    assert to_bytes(onnx.load_model_from_string(content)) == content
