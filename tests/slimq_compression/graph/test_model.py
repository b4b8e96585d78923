from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from slimq.networks.export import export_onnx
from slimq_compression.graph.model import remove_unused, run_tensors, sort_nodes, to_bytes


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
