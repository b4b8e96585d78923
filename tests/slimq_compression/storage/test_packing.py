from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import zstandard
from onnx import TensorProto, helper, numpy_helper

from slimq.core.onnx_policy import OnnxPolicy
from slimq.networks.export import export_onnx
from slimq_compression.graph.model import to_bytes
from slimq_compression.graph.weights import count_weights, describe_precision
from slimq_compression.passes import quantize_int8
from slimq_compression.storage.packing import compact, compress_file


@pytest.fixture
def model(make_network, make_context) -> Any:
    def make(kind: str, int8: bool = False) -> onnx.ModelProto:
        network = make_network(kind)
        exported = onnx.load_model_from_string(export_onnx(network))
        if not int8:
            return exported
        context = make_context(kind, network, states=8)
        return quantize_int8.apply(exported, quantize_int8.Params(), context)

    return make


@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.parametrize("int8", [False, True])
def test_a_compact_model_answers_the_same_with_the_same_operators(
    model, make_context, make_network, operators, kind: str, int8: bool
) -> None:
    plain = model(kind, int8)
    before = to_bytes(plain)
    small = compact(plain)
    assert to_bytes(plain) == before
    assert operators(small) == operators(plain)
    context = make_context(kind, make_network(kind))
    actions = context.teacher.spec.actions
    answers = [
        OnnxPolicy(to_bytes(m), context.observation, actions)(context.states)
        for m in (plain, small)
    ]
    np.testing.assert_array_equal(*answers)
    assert count_weights(small) == count_weights(plain)
    assert describe_precision(small) == describe_precision(plain)


def test_names_are_short_and_only_input_and_output_keep_theirs(model) -> None:
    small = compact(model("conv", int8=True))
    tensors = {name for node in small.graph.node for name in (*node.input, *node.output)}
    assert {name for name in tensors if len(name) > 2} == {"observation", "q_values"}
    assert not any(node.name for node in small.graph.node)
    assert {tensor.name for tensor in small.graph.initializer} <= tensors


def test_an_int8_model_of_a_small_network_loses_three_kilobytes_of_names(model) -> None:
    plain = model("conv", int8=True)
    assert len(to_bytes(plain)) - len(to_bytes(compact(plain))) > 3_000


def test_equal_constants_become_one_and_shapes_varints(model) -> None:
    small = compact(model("conv", int8=True))
    zeros = [
        tensor
        for tensor in small.graph.initializer
        if tensor.data_type == TensorProto.UINT8 and not numpy_helper.to_array(tensor).any()
    ]
    assert len(zeros) == 1
    (shape,) = (t for t in small.graph.initializer if t.data_type == TensorProto.INT64)
    assert list(shape.int64_data) == [-1, 280]
    assert not shape.raw_data


def test_what_is_assumed_anyway_is_left_out_and_the_rest_kept(model) -> None:
    plain = model("conv")
    plain.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    first, second = (node for node in plain.graph.node if node.op_type == "Conv")
    first.attribute.append(helper.make_attribute("pads", [0, 0, 0, 0]))
    second.attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))
    second.attribute.append(helper.make_attribute("group", 1))
    small = compact(plain)
    first, second = (node for node in small.graph.node if node.op_type == "Conv")
    assert [attribute.name for attribute in first.attribute] == ["strides"]
    assert [attribute.name for attribute in second.attribute] == ["pads"]
    assert [opset.domain for opset in small.opset_import] == [""]


def test_more_tensors_than_letters_get_names_of_two() -> None:
    nodes = [
        helper.make_node("Neg", [f"t{i}" if i else "observation"], [f"t{i + 1}"]) for i in range(60)
    ]
    nodes.append(helper.make_node("Neg", ["t60"], ["q_values"]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2])
        for name in ("observation", "q_values")
    ]
    graph = helper.make_graph(nodes, "long", ends[:1], ends[1:])
    long = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    outputs = [node.output[0] for node in compact(long).graph.node]
    assert (outputs[0], outputs[51], outputs[52], outputs[59]) == ("a", "Z", "aa", "ah")
    assert len(set(outputs)) == 61


def test_a_compressed_file_states_its_size_and_is_the_same_every_time(model) -> None:
    content = to_bytes(model("conv")) * 3
    first, again, fast = (compress_file(content, level) for level in (19, 19, 1))
    assert first == again
    assert len(first) < len(fast)
    assert zstandard.frame_content_size(first) == len(content)
    assert zstandard.ZstdDecompressor().decompress(first) == content
