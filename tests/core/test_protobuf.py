"""The scan for external tensor data finds it wherever ONNX can hold a tensor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from slimq.core._protobuf import DEEPEST, has_external_data, refuse_external_data
from slimq.core.errors import RepositoryError


def tensor(external: bool) -> TensorProto:
    result = numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    if external:
        onnx.external_data_helper.set_external_data(result, "elsewhere.bin")
        result.ClearField("raw_data")
    return result


def sparse(external: bool) -> onnx.SparseTensorProto:
    indices = numpy_helper.from_array(np.arange(4, dtype=np.int64), "i")
    return onnx.SparseTensorProto(values=tensor(external), indices=indices, dims=[9])


def graph(nodes: list[onnx.NodeProto] | None = None, **fields: object) -> onnx.GraphProto:
    return onnx.GraphProto(name="g", node=nodes or [], **fields)


def node(**attribute: object) -> onnx.NodeProto:
    return onnx.NodeProto(op_type="X", attribute=[onnx.AttributeProto(name="a", **attribute)])


def function(external: bool) -> onnx.FunctionProto:
    return onnx.FunctionProto(name="f", node=[node(t=tensor(external))])


def in_function_default(external: bool) -> onnx.FunctionProto:
    attribute = onnx.AttributeProto(name="a", t=tensor(external))
    return onnx.FunctionProto(name="f", attribute_proto=[attribute])


PLACES: dict[str, Callable[[bool], onnx.ModelProto]] = {
    "initializer": lambda e: onnx.ModelProto(graph=graph(initializer=[tensor(False), tensor(e)])),
    "sparse initializer": lambda e: onnx.ModelProto(graph=graph(sparse_initializer=[sparse(e)])),
    "constant": lambda e: onnx.ModelProto(graph=graph([node(t=tensor(e))])),
    "constants": lambda e: onnx.ModelProto(graph=graph([node(tensors=[tensor(e)])])),
    "sparse constant": lambda e: onnx.ModelProto(graph=graph([node(sparse_tensor=sparse(e))])),
    "sparse constants": lambda e: onnx.ModelProto(graph=graph([node(sparse_tensors=[sparse(e)])])),
    "subgraph": lambda e: onnx.ModelProto(graph=graph([node(g=graph(initializer=[tensor(e)]))])),
    "subgraphs": lambda e: onnx.ModelProto(
        graph=graph([node(graphs=[graph(initializer=[tensor(e)])])])
    ),
    "function": lambda e: onnx.ModelProto(functions=[function(e)]),
    "default of a function": lambda e: onnx.ModelProto(functions=[in_function_default(e)]),
    "training": lambda e: onnx.ModelProto(
        training_info=[onnx.TrainingInfoProto(algorithm=graph(initializer=[tensor(e)]))]
    ),
    "training initialisation": lambda e: onnx.ModelProto(
        training_info=[onnx.TrainingInfoProto(initialization=graph(initializer=[tensor(e)]))]
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found_in_every_place(place: str) -> None:
    assert has_external_data(PLACES[place](True).SerializeToString())
    assert not has_external_data(PLACES[place](False).SerializeToString())


def test_every_message_of_onnx_that_leads_to_a_tensor_is_followed() -> None:
    """Compares the table with onnx's own descriptors, so that a new field is noticed."""
    from slimq.core._protobuf import CHILDREN

    kinds = {
        "ModelProto": "model",
        "TrainingInfoProto": "training",
        "GraphProto": "graph",
        "FunctionProto": "function",
        "NodeProto": "node",
        "AttributeProto": "attribute",
        "SparseTensorProto": "sparse",
        "TensorProto": "tensor",
    }
    for name, kind in kinds.items():
        fields = getattr(onnx, name).DESCRIPTOR.fields
        expected = {
            field.number: kinds[field.message_type.name]
            for field in fields
            if field.message_type is not None and field.message_type.name in kinds
        }
        assert CHILDREN[kind] == expected, name


def test_either_mark_of_external_data_suffices() -> None:
    marked = TensorProto(data_location=TensorProto.EXTERNAL)
    located = TensorProto(external_data=[onnx.StringStringEntryProto(key="location", value="x")])
    for one in (marked, located):
        model = onnx.ModelProto(graph=graph(initializer=[one]))
        assert has_external_data(model.SerializeToString())
    inside = TensorProto(data_location=TensorProto.DEFAULT)
    model = onnx.ModelProto(graph=graph(initializer=[inside]))
    assert not has_external_data(model.SerializeToString())


@given(st.binary(max_size=200))
def test_any_bytes_are_scanned_or_refused(content: bytes) -> None:
    try:
        has_external_data(content)
    except ValueError:
        with pytest.raises(RepositoryError, match=r"^here: is not an ONNX model: "):
            refuse_external_data(content, "here")


@given(st.data())
def test_a_truncated_model_never_hides_what_onnx_would_still_read(data: st.DataObject) -> None:
    content = PLACES["initializer"](True).SerializeToString()
    cut = content[: data.draw(st.integers(0, len(content)))]
    try:
        parsed = onnx.ModelProto.FromString(cut)
    except Exception:
        return
    marked = any(one.data_location or one.external_data for one in parsed.graph.initializer)
    assert has_external_data(cut) == marked


def test_messages_nested_too_deep_are_refused() -> None:
    assert not has_external_data(_nested(DEEPEST))
    with pytest.raises(ValueError, match="nested deeper than 100"):
        has_external_data(_nested(DEEPEST + 1))


def _nested(depth: int) -> bytes:
    """A model whose graph holds a node with an attribute with a graph, and so on."""
    fields = [7, *(1, 5, 6) * depth][:depth]
    content = b""
    for field in reversed(fields):
        content = bytes([field << 3 | 2]) + _length(len(content)) + content
    return content


def _length(value: int) -> bytes:
    result = b""
    while value > 0x7F:
        result += bytes([value & 0x7F | 0x80])
        value >>= 7
    return result + bytes([value])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x3a", "ends in the middle of a number"),
        (b"\x3a\x05ab", "ends in the middle of a field"),
        (b"\x00\x00", "invalid tag"),
        (b"\x0b", "invalid wire type 3"),
        (b"\x08" + b"\xff" * 11, "longer than 10 bytes"),
        (b"\x09\x00", "ends in the middle of a field"),
    ],
)
def test_a_broken_encoding_is_explained(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        has_external_data(content)


def test_numbers_of_fixed_width_are_skipped() -> None:
    assert not has_external_data(b"\x09" + bytes(8) + b"\x0d" + bytes(4))
