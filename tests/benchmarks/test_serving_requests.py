from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from serving_cases import CEILING, SERVICE, Request
from serving_requests import LENGTH_HEADER, AnswerError, decode, encode, path_of

FRAMES = np.arange(8, dtype=np.uint8).reshape(1, 2, 2, 2)


def test_the_forms_of_a_request() -> None:
    headers, body = encode("json", FRAMES)
    assert headers == {"Content-Type": "application/json"}
    assert json.loads(body) == {"observations": FRAMES.tolist()}
    assert encode("raw", FRAMES) == ({"Content-Type": "application/octet-stream"}, bytes(range(8)))
    headers, body = encode("v2", FRAMES)
    length = int(headers[LENGTH_HEADER])
    (tensor,) = json.loads(body[:length])["inputs"]
    assert (tensor["shape"], tensor["datatype"]) == ([1, 2, 2, 2], "UINT8")
    assert body[length:] == bytes(range(8))


def test_answers_of_both_kinds_are_read() -> None:
    document = json.dumps({"q_values": [[1.5, -2.0]], "actions": [0]}).encode()
    assert decode(None, document).tolist() == [[1.5, -2.0]]
    outputs = [
        {"name": "actions", "shape": [1], "parameters": {"binary_data_size": 8}},
        {"name": "q_values", "shape": [1, 2], "parameters": {"binary_data_size": 8}},
    ]
    head = json.dumps({"outputs": outputs}).encode()
    content = head + struct.pack("<q2f", 0, 1.5, -2.0)
    assert decode(str(len(head)), content).tolist() == [[1.5, -2.0]]


def test_a_flat_list_in_the_protocols_json_is_read_back_with_its_shape() -> None:
    headers, body = encode("v2json", np.float32([[1, 2, 3, 4]]))
    assert headers == {"Content-Type": "application/json"}
    (tensor,) = json.loads(body)["inputs"]
    assert (tensor["shape"], tensor["data"]) == ([1, 4], [1, 2, 3, 4])
    output = {"name": "q_values", "shape": [1, 2], "data": [1.5, -2.0]}
    document = json.dumps({"outputs": [output]}).encode()
    assert decode(None, document).tolist() == [[1.5, -2.0]]


def test_an_answer_without_q_values_is_named() -> None:
    head = b'{"outputs": []}'
    with pytest.raises(AnswerError, match="no q_values"):
        decode(str(len(head)), head)


@pytest.mark.parametrize(
    ("server", "form", "path"),
    [
        (CEILING, "raw", "/pong/raw"),
        (SERVICE, "raw", "/v1/policies/pong/variants/int8/act"),
        (SERVICE, "v2", "/v2/models/pong/versions/int8/infer"),
    ],
)
def test_where_a_server_answers(server: str, form: str, path: str) -> None:
    assert path_of(server, Request("pong", form, "int8")) == path
