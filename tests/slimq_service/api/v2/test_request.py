"""A wrong request is refused by name, after Triton's qa (L0_http, L0_input_validation)."""

from __future__ import annotations

import contextlib
import gzip
import json
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimq.core.errors import InvalidInputError
from slimq.core.observation import ObservationSpec
from slimq_service.api.v2.request import Limits, read_request

ONE = np.zeros((1, 4), np.float32)
TWO = np.zeros((2, 4), np.float32)


def changed(**changes: Any) -> dict[str, Any]:
    """A good document with a change of its input."""
    entry = {"name": "observations", "shape": [1, 4], "datatype": "FP32", "data": [0, 0, 0, 0]}
    return {"inputs": [{k: v for k, v in {**entry, **changes}.items() if v != "absent"}]}


def wanting(outputs: Any) -> dict[str, Any]:
    return {**changed(), "outputs": outputs}


BAD = [
    ("inputs", {}),
    ("inputs", {"inputs": None}),
    ("inputs", {"inputs": {}}),
    ("inputs: expected one input", {"inputs": []}),
    ("inputs: expected one input", {"inputs": changed()["inputs"] * 2}),
    ("inputs[0]: expected an object", {"inputs": [1]}),
    ("inputs[0].name: expected 'observations'", changed(name="observation")),
    ("inputs[0].name", changed(name="absent")),
    ("inputs[0].name", changed(name="")),
    ("inputs[0].name", changed(name="  ")),
    ("inputs[0].name", changed(name=["observations"])),
    ("inputs[1].name", {"inputs": [*changed()["inputs"], {"name": "extra"}]}),
    ("inputs[0].datatype: expected FP32", changed(datatype="FP64")),
    ("inputs[0].datatype: expected FP32", changed(datatype="UINT8")),
    ("inputs[0].datatype", changed(datatype="absent")),
    ("inputs[0].datatype", changed(datatype=32)),
    ("inputs[0].shape: expected [batch, 4]", changed(shape="absent")),
    ("inputs[0].shape: expected [batch, 4]", changed(shape=[4])),
    ("inputs[0].shape: expected [batch, 4]", changed(shape=[2, 2])),
    ("inputs[0].shape: expected [batch, 4]", changed(shape=[])),
    ("inputs[0].shape", changed(shape=[1] * 1000)),
    ("inputs[0].shape[0]: expected a non-negative integer", changed(shape=[-1, 4])),
    ("inputs[0].shape[1]: expected a non-negative integer", changed(shape=[1, -4])),
    ("inputs[0].shape[0]", changed(shape=[1.0, 4])),
    ("inputs[0].shape[0]", changed(shape=[True, 4])),
    ("inputs[0].shape[0]", changed(shape=["1", 4])),
    ("inputs[0].shape: expected a batch of at least 1", changed(shape=[0, 4], data=[])),
    ("inputs[0].data", changed(data="absent")),
    ("inputs[0].data", changed(data=None)),
    ("inputs[0].data", changed(data="AAAA")),
    ("inputs[0].data: expected a list of 4 numbers", changed(data=[0, 0, 0])),
    ("inputs[0].data: expected a list of 4 numbers", changed(data=[])),
    ("inputs[0].data[2]: expected a number", changed(data=[0, 0, "0", 0])),
    ("inputs[0].data[1]: expected a number", changed(data=[0, True, 0, 0])),
    ("inputs[0].data[0]: expected a list of 4 numbers", changed(data=[[0, 0, 0]])),
    ("inputs[0].data: expected a list of numbers, received null", changed(data=None)),
    ("(a JavaScript typed array? send Array.from(array))", changed(data={"0": 0, "1": 1})),
    ("inputs[0].data[0]: expected a number, received an object", changed(data=[{"0": 0}])),
    ("inputs[0].data[0][0]: expected a number", changed(data=[[[0], 0, 0, 0]])),
    ("inputs[0].data[0][3]", changed(data=[[0, 0, 0, 1e300]])),
    ("inputs[0].parameters: expected an object", changed(parameters=[])),
    ("shared_memory_region", changed(data="absent", parameters={"shared_memory_region": "r"})),
    ("id: expected a string", {**changed(), "id": 7}),
    ("id: expected at most 256 characters, received 257", {**changed(), "id": "x" * 257}),
    ("parameters: expected an object", {**changed(), "parameters": "x"}),
    ("binary_data_output", {**changed(), "parameters": {"binary_data_output": 1}}),
    ("outputs: expected a list", wanting("actions")),
    ("outputs[0]: expected an object", wanting(["actions"])),
    ("outputs[0].name: expected 'q_values' or 'actions'", wanting([{"name": "q"}])),
    ("outputs[0].name", wanting([{"name": ""}])),
    ("outputs[0].name", wanting([{}])),
    ("outputs[1].name: expected each output once", wanting([{"name": "actions"}] * 2)),
    (
        "outputs[0].parameters.binary_data: expected true or false",
        wanting([{"name": "actions", "parameters": {"binary_data": "yes"}}]),
    ),
    (
        "outputs[0].parameters.classification",
        wanting([{"name": "actions", "parameters": {"classification": 2}}]),
    ),
    ("body: expected a JSON object", []),
    ("body: expected a JSON object", None),
]


@pytest.mark.parametrize(("message", "document"), BAD)
def test_an_invalid_field_is_400_and_named(
    service: Any, protocol: Any, message: str, document: Any
) -> None:
    answer = protocol.infer(service, "tiny", document)
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    assert message in answer.json()["error"]
    assert len(answer.content) < 1500
    assert protocol.infer(service, "tiny", changed()).status_code == 200, "it goes on"


@pytest.mark.parametrize(
    ("message", "body"),
    [
        ("body: expected valid JSON", b""),
        ("valid JSON", b"{"),
        ("valid JSON", b'{"inputs":' + b"[" * 4000),
        ("valid JSON", b'{"inputs":' + b"[" * 4000 + b"]" * 4000 + b"}"),
        ("valid JSON", b"\xff\xfe"),
        ("valid JSON", b'{"id": "\\ud800"}'),
        ("data: expected finite numbers, received NaN", b'{"inputs":[{"data":[NaN]}]}'),
        ("data: expected finite numbers, received -Inf", b'{"inputs":[{"data":[-Infinity]}]}'),
    ],
)
def test_invalid_json_is_400(service: Any, protocol: Any, message: str, body: bytes) -> None:
    answer = protocol.infer(service, "tiny", body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_an_id_of_the_longest_length_is_repeated(service: Any, protocol: Any) -> None:
    answer = protocol.infer(service, "tiny", {**changed(), "id": "x" * 256})
    assert answer.json()["id"] == "x" * 256


def test_more_observations_or_lists_than_allowed_are_413(start: Any, protocol: Any) -> None:
    service = start(max_batch=4)
    many = np.zeros((5, 4), np.float32)
    lists = b'{"inputs": [' + b"[]," * 5000 + b"[]]}"
    cases = [
        (protocol.document(many), {}),
        protocol.binary(many),
        (many.tobytes(), {protocol.LENGTH: "0"}),
        (protocol.document(many, shape=[2**63, 4]), {}),
        (lists, {}),
        (b'{"inputs": [' + b"1," * 5000 + b"1]}", {}),
    ]
    for body, headers in cases:
        answer = protocol.infer(service, "tiny", body, headers)
        assert answer.status_code == 413, answer.text
        assert "at most 4 observations" in answer.json()["error"]


def binary_head(size: Any, shape: Any = (2, 4)) -> dict[str, Any]:
    return changed(shape=list(shape), data="absent", parameters={"binary_data_size": size})


@pytest.mark.parametrize(
    ("message", "head", "binary"),
    [
        ("body: expected 32 bytes after the JSON, received 31 bytes", binary_head(32), 31),
        ("body: expected 32 bytes after the JSON, received 33 bytes", binary_head(32), 33),
        ("body: expected 32 bytes after the JSON, received 0 bytes", binary_head(32), 0),
        ("binary_data_size: expected 32", binary_head(16), 16),
        ("binary_data_size: expected 32", binary_head(64), 64),
        ("binary_data_size: expected 32", binary_head(-32), 32),
        ("binary_data_size: expected 32", binary_head(32.0), 32),
        ("binary_data_size: expected 32", binary_head("32"), 32),
        ("binary_data_size: expected 32", binary_head(True), 32),
        ("inputs[0].data: expected no data together with binary_data_size", None, 16),
        ("body: expected nothing after the JSON, received 3 bytes", changed(), 3),
    ],
)
def test_binary_tensors_too_long_or_too_short_are_400(
    service: Any, protocol: Any, message: str, head: Any, binary: int
) -> None:
    if head is None:
        head = changed(parameters={"binary_data_size": 16})
    answer = protocol.infer(service, "tiny", *protocol.frame(head, bytes(binary)))
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]


def test_a_binary_tensor_needs_the_length_of_the_json(service: Any, protocol: Any) -> None:
    body, _ = protocol.frame(binary_head(32))
    answer = protocol.infer(service, "tiny", body)
    assert answer.status_code == 400
    assert protocol.LENGTH in answer.json()["error"]


@pytest.mark.parametrize("length", ["-1", "+5", "5.0", "abc", "", "1" * 30, "0x10", "99999"])
def test_a_length_of_the_json_that_cannot_be_is_400(
    service: Any, protocol: Any, length: str
) -> None:
    body, _ = protocol.binary(TWO)
    answer = protocol.infer(service, "tiny", body, {protocol.LENGTH: length})
    assert answer.status_code == 400
    assert protocol.LENGTH in answer.json()["error"]


def test_a_length_inside_or_past_the_json_is_400(service: Any, protocol: Any) -> None:
    body, headers = protocol.binary(TWO)
    right = int(headers[protocol.LENGTH])
    for length in (1, right - 1, right + 1, len(body)):
        answer = protocol.infer(service, "tiny", body, {protocol.LENGTH: str(length)})
        assert answer.status_code == 400


@pytest.mark.parametrize("size", [0, 1, 15, 17])
def test_a_raw_tensor_that_is_no_multiple_of_an_observation_is_400(
    service: Any, protocol: Any, size: int
) -> None:
    answer = protocol.infer(service, "tiny", bytes(size), {protocol.LENGTH: "0"})
    assert answer.status_code == 400
    assert "a positive multiple of 16 bytes" in answer.json()["error"]


def test_binary_numbers_that_are_not_finite_are_400(service: Any, protocol: Any) -> None:
    array = np.array([[0, 0, np.nan, 0]], np.float32)
    for body, headers in (protocol.binary(array), (array.tobytes(), {protocol.LENGTH: "0"})):
        answer = protocol.infer(service, "tiny", body, headers)
        assert answer.status_code == 400
        assert "a finite float32" in answer.json()["error"]


@pytest.mark.parametrize("number", [-1, 256, 0.5])
def test_numbers_that_are_no_uint8_are_400(service: Any, protocol: Any, number: float) -> None:
    data = [0] * (4 * 84 * 84)
    data[-1] = number
    document = changed(shape=[1, 4, 84, 84], datatype="UINT8", data=data)
    answer = protocol.infer(service, "tiny_frames", document)
    assert answer.status_code == 400
    assert "integers from 0 to 255" in answer.json()["error"]


def test_a_gzipped_body_over_the_limit_is_413(start: Any, protocol: Any) -> None:
    service = start(max_body_bytes=100_000)
    document = {**changed(), "padding": "x" * 200_000}
    bomb = gzip.compress(json.dumps(document).encode())
    assert len(bomb) < 1000
    answer = protocol.infer(service, "tiny", bomb, {"Content-Encoding": "gzip"})
    assert answer.status_code == 413
    assert "body: expected at most 100000 bytes" in answer.json()["error"]
    answer = protocol.infer(service, "tiny", document)
    assert answer.status_code == 413


SPEC = ObservationSpec(dtype="float32", shape=(4,))
LIMITS = Limits(batch=4, body_bytes=10_000)
KEYS = st.sampled_from(["name", "shape", "datatype", "data", "parameters", "binary_data_size"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats()
    | st.sampled_from(["observations", "q_values", "actions", "FP32", "x", ""]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(
    document=st.dictionaries(
        st.sampled_from(["id", "inputs", "outputs", "parameters"]), VALUES, max_size=4
    ),
    changes=st.dictionaries(KEYS, VALUES, max_size=2),
    tail=st.binary(max_size=20),
    length=st.none() | st.integers(0, 300),
)
def test_random_requests_are_parsed_or_refused(
    document: Any, changes: Any, tail: bytes, length: int | None
) -> None:
    entry = {**changed()["inputs"][0], **changes}
    body = json.dumps({"inputs": [entry], **document}).encode() + tail
    if length is None and tail:
        length = len(body) - len(tail)
    try:
        request = read_request(body, None, length, SPEC, LIMITS)
    except InvalidInputError:  # anything else would be a mistake of ours
        return
    assert request.observations.shape[1:] == (4,)
    assert np.isfinite(request.observations).all()
    assert request.outputs


@settings(max_examples=200, deadline=None)
@given(
    body=st.binary(max_size=200),
    encoding=st.sampled_from([None, "gzip", "deflate"]),
    length=st.none() | st.integers(0, 300),
    packed=st.booleans(),
)
def test_random_bytes_are_parsed_or_refused(
    body: bytes, encoding: str | None, length: int | None, packed: bool
) -> None:
    if packed and encoding is not None:
        body = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    with contextlib.suppress(InvalidInputError):  # anything else would be a mistake of ours
        read_request(body, encoding, length, SPEC, LIMITS)
