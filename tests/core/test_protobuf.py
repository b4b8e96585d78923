"""Dangerous parts of a model are found wherever ONNX allows them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from slimq.core import _protobuf
from slimq.core._protobuf import (
    EXTERNAL,
    FUNCTION,
    MAX_DEPTH,
    SUBGRAPH,
    check_model,
    find_problem,
    has_external_data,
)
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


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_reported_before_other_problems(place: str) -> None:
    assert find_problem(PLACES[place](True).SerializeToString()) == EXTERNAL


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("initializer", None),
        ("sparse initializer", None),
        ("constant", None),
        ("training", None),
        ("subgraph", SUBGRAPH),
        ("subgraphs", SUBGRAPH),
        ("function", FUNCTION),
        ("default of a function", FUNCTION),
    ],
)
def test_graphs_within_the_graph_and_functions_are_found(place: str, problem: str | None) -> None:
    assert find_problem(PLACES[place](False).SerializeToString()) == problem


def of_tensor(*dims: int, **data: object) -> onnx.ModelProto:
    tensor = TensorProto(name="big", data_type=TensorProto.FLOAT, dims=dims, **data)
    return onnx.ModelProto(graph=graph([node(t=tensor)]))


@pytest.mark.parametrize(
    ("model", "elements"),
    [
        (of_tensor(10**12), 10**12),
        (of_tensor(10**6, 10**6, raw_data=bytes(16)), 10**12),
        (of_tensor(10**12, float_data=[1.0]), 10**12),
        (of_tensor(2**40, 2**40), 2**64),
        (of_tensor(*[2**62] * 10_000), 2**64),
        (of_tensor(-1), 2**64 - 1),
        (of_tensor(), 1),
    ],
)
def test_a_tensor_that_declares_more_than_it_holds_is_found(
    model: onnx.ModelProto, elements: int
) -> None:
    found = find_problem(model.SerializeToString())
    assert found is not None
    assert found.startswith(f"tensor 'big' declares {elements} elements but holds ")


TYPES = [
    number
    for number in TensorProto.DataType.values()
    if number not in (TensorProto.UNDEFINED, TensorProto.STRING)
]


@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize("raw", [True, False])
def test_a_tensor_of_any_type_may_declare_what_it_holds(element: int, raw: bool) -> None:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(element)
    array = np.zeros((5, 7), dtype)
    if raw:
        tensor = numpy_helper.from_array(array, "w")
    else:
        tensor = onnx.helper.make_tensor("w", element, [5, 7], array.flatten().tolist())
    model = onnx.ModelProto(graph=graph(initializer=[tensor]))
    assert find_problem(model.SerializeToString()) is None


def test_strings_empty_tensors_and_scalars_may_declare_what_they_hold() -> None:
    strings = onnx.helper.make_tensor("s", TensorProto.STRING, [2], [b"a", b""])
    empty = numpy_helper.from_array(np.zeros((0, 2**40), np.float32), "e")
    scalar = numpy_helper.from_array(np.array(1, np.uint8), "c")
    model = onnx.ModelProto(graph=graph(initializer=[empty, scalar, strings]))
    assert find_problem(model.SerializeToString()) is None


def test_a_sparse_tensor_is_bounded_by_its_dense_size() -> None:
    small = sparse(False)
    large = sparse(False)
    large.dims[:] = [2**20, 2**10]
    for tensor, problem in ((small, None), (large, "a sparse tensor declares 1073741824 elements")):
        content = onnx.ModelProto(graph=graph(sparse_initializer=[tensor])).SerializeToString()
        found = find_problem(content)
        assert found is None if problem is None else str(found).startswith(problem)


def test_a_model_with_too_many_fields_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_protobuf, "MAX_FIELDS", 100)
    assert find_problem(onnx.ModelProto(graph=graph([node()] * 10)).SerializeToString()) is None
    with pytest.raises(ValueError, match="more than 100 fields"):
        find_problem(onnx.ModelProto(graph=graph([node()] * 100)).SerializeToString())


def test_every_onnx_message_that_leads_to_a_tensor_is_followed() -> None:
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


def test_either_sign_of_external_data_suffices() -> None:
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
            check_model(content, "here")


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
    assert not has_external_data(_nested(MAX_DEPTH))
    with pytest.raises(ValueError, match="nested more than 100 deep"):
        has_external_data(_nested(MAX_DEPTH + 1))


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
