from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import numpy as np
import pytest

COMPRESS = {"gzip": gzip.compress, "deflate": zlib.compress}


def as_act(service: Any, policy: str, variant: str, array: Any) -> Any:
    answer = service.act(policy, array.tolist(), params={"variant": variant})
    assert answer.status_code == 200
    return answer.json()


def check(answer: Any, expected: Any, protocol: Any) -> None:
    assert answer.status_code == 200, answer.text
    found = protocol.tensors(answer)
    np.testing.assert_array_equal(found["q_values"], np.float32(expected["q_values"]))
    np.testing.assert_array_equal(found["actions"], expected["actions"])


@pytest.mark.parametrize("policy", ["tiny", "tiny_frames"])
@pytest.mark.parametrize("variant", ["", "other"])
def test_flattened_nested_and_binary_inputs_give_what_act_gives(
    service: Any, protocol: Any, policy: str, variant: str, observations: Any, frames: Any
) -> None:
    array = frames if policy == "tiny_frames" else observations
    expected = as_act(service, policy, variant or "fp32", array)
    model = f"{policy}/{variant}" if variant else policy
    flat = protocol.document(array)
    for document in (flat, protocol.document(array, data=array.tolist())):
        answer = protocol.infer(service, model, document)
        check(answer, expected, protocol)
        assert answer.headers["content-type"] == "application/json"
        assert protocol.LENGTH not in answer.headers
        head = answer.json()
        assert head["model_name"] == policy
        assert head["model_version"] == expected["variant"]
        assert "id" not in head
    answer = protocol.infer(service, model, *protocol.binary(array))
    check(answer, expected, protocol)
    assert answer.headers["content-type"] == "application/octet-stream"
    raw = protocol.infer(service, model, array.tobytes(), {protocol.LENGTH: "0"})
    check(raw, expected, protocol)
    assert protocol.LENGTH in raw.headers, "a raw request is answered in binary"


def test_the_answer_names_outputs_datatypes_and_shapes(
    service: Any, protocol: Any, observations: Any
) -> None:
    document = {**protocol.document(observations), "id": "näm€", "unknown": {"x": 1}}
    answer = protocol.infer(service, "tiny", document).json()
    assert answer["id"] == "näm€"
    described = [(o["name"], o["datatype"], o["shape"]) for o in answer["outputs"]]
    assert described == [("q_values", "FP32", [3, 2]), ("actions", "INT64", [3])]
    assert all(len(o["data"]) == np.prod(o["shape"]) for o in answer["outputs"])


@pytest.mark.parametrize(
    ("wanted", "default", "expected"),
    [
        (None, False, [("q_values", False), ("actions", False)]),
        ([], True, [("q_values", True), ("actions", True)]),
        ([("actions", None)], False, [("actions", False)]),
        ([("actions", None), ("q_values", None)], True, [("actions", True), ("q_values", True)]),
        ([("actions", True), ("q_values", None)], False, [("actions", True), ("q_values", False)]),
        ([("q_values", False), ("actions", None)], True, [("q_values", False), ("actions", True)]),
    ],
)
def test_outputs_have_the_requested_order_and_encoding(
    service: Any, protocol: Any, observations: Any, wanted: Any, default: bool, expected: Any
) -> None:
    document = protocol.document(observations)
    document["parameters"] = {"binary_data_output": default}
    if wanted is not None:
        document["outputs"] = [
            {"name": name, **({} if binary is None else {"parameters": {"binary_data": binary}})}
            for name, binary in wanted
        ]
    answer = protocol.infer(service, "tiny", document)
    length = int(answer.headers.get(protocol.LENGTH, len(answer.content)))
    head = json.loads(answer.content[:length])
    assert [(o["name"], "parameters" in o) for o in head["outputs"]] == expected
    full = as_act(service, "tiny", "fp32", observations)
    for name, values in protocol.tensors(answer).items():
        np.testing.assert_array_equal(values, np.array(full[name], values.dtype))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_bodies_count_the_json_before_compression(
    service: Any, protocol: Any, encoding: str, observations: Any
) -> None:
    expected = as_act(service, "tiny", "fp32", observations)
    body, headers = protocol.binary(observations)
    plain = json.dumps(protocol.document(observations)).encode()
    for content, given in ((body, headers), (plain, {})):
        compressed = COMPRESS[encoding](content)
        answer = protocol.infer(
            service, "tiny", compressed, {**given, "Content-Encoding": encoding.upper()}
        )
        check(answer, expected, protocol)


def test_tensors_may_start_at_any_byte(service: Any, protocol: Any, observations: Any) -> None:
    expected = as_act(service, "tiny", "fp32", observations)
    for padding in range(8):
        body, headers = protocol.binary(observations, padding="x" * padding)
        check(protocol.infer(service, "tiny", body, headers), expected, protocol)


def test_parameters_of_other_servers_are_tolerated(
    service: Any, protocol: Any, observations: Any
) -> None:
    document = protocol.document(observations, parameters={"whatever": 1})
    document["parameters"] = {"priority": 1, "timeout": 5, "sequence_id": 3, "sequence_end": True}
    document["outputs"] = [{"name": "actions", "parameters": {"other": "x"}}]
    assert protocol.infer(service, "tiny", document).status_code == 200


def test_any_content_type_or_none_is_accepted(
    service: Any, protocol: Any, observations: Any
) -> None:
    for media in ("text/plain", "application/octet-stream", "nonsense"):
        document = protocol.document(observations)
        answer = protocol.infer(service, "tiny", document, {"content-type": media})
        assert answer.status_code == 200


def test_requests_count_in_the_metrics_as_those_of_act_do(
    service: Any, protocol: Any, observations: Any
) -> None:
    protocol.infer(service, "tiny", protocol.document(observations))
    protocol.infer(service, "tiny", b"{")
    protocol.infer(service, "none", b"{")
    labels = '{policy="tiny",variant="fp32"}'
    assert service.metric("slimq_requests_total" + labels) == 2
    assert service.metric("slimq_observations_total" + labels) == 3
    assert service.metric("slimq_inference_seconds_count" + labels) == 1
    assert service.metric("slimq_http_request_seconds_count" + labels) == 2
    series = 'slimq_errors_total{code="malformed-body",policy="tiny",variant="fp32"}'
    assert service.metric(series) == 1
    assert service.metric('slimq_requests_total{policy="unknown",variant="unknown"}') == 1
    assert service.metric("slimq_requests_in_flight") == 0


@pytest.mark.parametrize("model", ["none", "tiny/none", "tiny/%20", "%20", "..", "tiny/..%2Ffp32"])
def test_unknown_names_are_404(service: Any, protocol: Any, model: str, observations: Any) -> None:
    answer = protocol.infer(service, model, protocol.document(observations))
    assert answer.status_code == 404
    assert list(answer.json()) == ["error"]


def test_non_finite_q_values_are_an_error_in_json_and_binary(service: Any, protocol: Any) -> None:
    array = np.array([[0, 0, 0, 0], [3e38, -3e38, 3e38, 3e38]], np.float32)
    for body, headers in ((protocol.document(array), {}), protocol.binary(array)):
        answer = protocol.infer(service, "tiny", body, headers)
        assert answer.status_code == 400
        assert (
            "observations[1]: expected observations with finite Q-values" in answer.json()["error"]
        )


def test_a_large_payload_is_read_off_the_event_loop(service: Any, protocol: Any) -> None:
    array = np.random.default_rng(1).integers(0, 256, size=(200, 4, 84, 84), dtype=np.uint8)
    answer = protocol.infer(service, "tiny_frames", *protocol.binary(array))
    assert protocol.tensors(answer)["q_values"].shape == (200, 6)
    nested = protocol.document(array[:40], data=array[:40].tolist())
    answer_of_lists = protocol.infer(service, "tiny_frames", nested)
    np.testing.assert_array_equal(
        protocol.tensors(answer_of_lists)["actions"], protocol.tensors(answer)["actions"][:40]
    )


def test_an_internal_error_reveals_no_details(
    service: Any, protocol: Any, monkeypatch: pytest.MonkeyPatch, observations: Any
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("slimq_service.api.v2.codec.InferCodec.encode", fail)
    answer = protocol.infer(service, "tiny", protocol.document(observations))
    assert answer.status_code == 500
    assert list(answer.json()) == ["error"]
    assert "secret" not in answer.text


def test_broken_files_are_503(start: Any, protocol: Any, repositories: Any) -> None:
    repositories.publish("tiny", "other", b"no model at all")
    (repositories.root / "tiny_frames" / "policy.json").write_text("{")
    service = start()
    answers = [
        protocol.infer(service, "tiny/other", b"{}"),
        protocol.infer(service, "tiny_frames", b"{}"),
        service.get("/v2/models/tiny_frames"),
        service.get("/v2/models/tiny_frames/ready"),
    ]
    assert [answer.status_code for answer in answers] == [503] * 4
    assert all(list(answer.json()) == ["error"] for answer in answers)
