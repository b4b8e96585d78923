from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from slimq.core.errors import SlimqError
from slimq.core.observation import ObservationSpec
from slimq_service.api.v2 import codec as module
from slimq_service.api.v2.codec import MAX_CACHED_HEADS, InferCodec, ResponseOptions
from slimq_service.api.v2.request import Limits, Output
from slimq_service.requests.codec import Decoded

SPEC = ObservationSpec(dtype="float32", shape=(4,))
NUMBERS = np.arange(12, dtype="<f4").reshape(3, 4)
Q_VALUES = np.array([[0.1, 0.2], [2.5, -1.0], [3.0, 3.0]], np.float32)


def written(*outputs: Output, identity: str | None = None, q_values: Any = Q_VALUES) -> Any:
    variant: Any = SimpleNamespace(
        policy=SimpleNamespace(name="tiny"),
        manifest=SimpleNamespace(name="fp32"),
        numbers_of=list,
    )
    decoded = Decoded(NUMBERS, options=ResponseOptions(identity, outputs))
    actions = np.asarray(q_values).argmax(axis=1).tolist()
    return make_codec().encode(variant, decoded, q_values, actions)


def make_codec() -> InferCodec:
    return InferCodec(Limits(batch=8, body_bytes=2**20))


def framed(**more: Any) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Body and headers of a request with one binary tensor."""
    parameters = {"binary_data_size": NUMBERS.nbytes}
    entry = {"name": "observations", "shape": [3, 4], "datatype": "FP32", "parameters": parameters}
    head = json.dumps({"inputs": [entry], **more}).encode()
    return head, [(b"inference-header-content-length", str(len(head)).encode())]


def decode(codec: InferCodec, body: bytes, headers: Any, spec: ObservationSpec = SPEC) -> Decoded:
    return codec.decode(codec.read_headers(headers), body, spec)


def test_q_values_round_trip_through_json_as_float32() -> None:
    answer = written(Output("q_values", binary=False), identity="7")
    document = json.loads(answer.body)
    (output,) = document["outputs"]
    np.testing.assert_array_equal(np.float32(output["data"]), Q_VALUES.ravel())
    assert (document["id"], output["shape"]) == ("7", [3, 2])
    assert answer.headers == ()


def test_ties_are_broken_by_the_first_action() -> None:
    (output,) = json.loads(written(Output("actions", binary=False)).body)["outputs"]
    assert output["data"] == [1, 0, 0]


@pytest.mark.parametrize("order", ["C", "F"])
def test_binary_tensors_are_little_endian_and_row_by_row(order: Any) -> None:
    q_values = np.asarray(Q_VALUES, order=order)
    outputs = (Output("actions", binary=True), Output("q_values", binary=True))
    answer = written(*outputs, q_values=q_values)
    ((_, length),) = answer.headers
    head, tensors = json.loads(answer.body[: int(length)]), answer.body[int(length) :]
    sizes = [output["parameters"]["binary_data_size"] for output in head["outputs"]]
    assert sizes == [24, 24]
    assert np.frombuffer(tensors[:24], "<i8").tolist() == [1, 0, 0]
    np.testing.assert_array_equal(np.frombuffer(tensors[24:], "<f4"), Q_VALUES.ravel())


def test_the_json_before_a_binary_tensor_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = make_codec()
    head, headers = framed()
    first = decode(codec, head + NUMBERS.tobytes(), headers)
    monkeypatch.setattr(module, "read_request", None)
    other = decode(codec, head + NUMBERS[::-1].tobytes(), headers)
    assert first.options == other.options
    np.testing.assert_array_equal(first.observations(), NUMBERS)
    np.testing.assert_array_equal(other.observations(), NUMBERS[::-1])


@pytest.mark.parametrize("tail", [b"", NUMBERS.tobytes()[:-4], NUMBERS.tobytes() * 2])
def test_a_cached_head_does_not_skip_checks_of_the_tensor(tail: bytes) -> None:
    codec = make_codec()
    head, headers = framed()
    decode(codec, head + NUMBERS.tobytes(), headers)
    with pytest.raises(SlimqError, match="bytes"):
        decode(codec, head + tail, headers).observations()


def test_a_head_is_parsed_again_for_another_layout() -> None:
    codec = make_codec()
    head, headers = framed()
    decode(codec, head + NUMBERS.tobytes(), headers)
    flat = ObservationSpec(dtype="float32", shape=(12,))
    with pytest.raises(SlimqError, match="shape"):
        decode(codec, head + NUMBERS.tobytes(), headers, flat).observations()


def test_the_cache_of_heads_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, parsed = make_codec(), []
    read = module.read_request

    def count(*arguments: Any) -> Any:
        parsed.append(arguments)
        return read(*arguments)

    monkeypatch.setattr(module, "read_request", count)
    for _ in range(2):
        for number in range(MAX_CACHED_HEADS + 1):
            head, headers = framed(number=number)
            decode(codec, head + NUMBERS.tobytes(), headers)
    assert len(parsed) > MAX_CACHED_HEADS + 1, "the first of them was forgotten"


def test_requests_with_an_id_are_not_cached_and_get_it_back() -> None:
    codec = make_codec()
    for number in ("1", "2"):
        head, headers = framed(id=number)
        assert decode(codec, head + NUMBERS.tobytes(), headers).options.id == number


@pytest.mark.parametrize(
    ("encoding", "length", "size", "slow"),
    [
        (b"gzip", None, 10, True),
        (None, None, 64 * 1024, False),
        (None, None, 64 * 1024 + 1, True),
        (None, b"10", 256 * 1024, False),
        (None, b"10", 256 * 1024 + 1, True),
    ],
)
def test_slow_decodes_are_recognised_in_advance(
    encoding: bytes | None, length: bytes | None, size: int, slow: bool
) -> None:
    headers = [(b"content-encoding", encoding)] if encoding else []
    if length is not None:
        headers.append((b"inference-header-content-length", length))
    codec = make_codec()
    assert codec.is_slow(codec.read_headers(headers), size) is slow
