from __future__ import annotations

import asyncio
import dataclasses
import io
import threading
from typing import Any

import numpy as np
import pytest

from costs import make_cost
from places import POLICIES
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.repository import Repository

RAW = {"content-type": "application/octet-stream"}
NPY = {"content-type": "application/x-npy"}
JSON = {"content-type": "application/json"}


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def expected(root: Any, policy: str, variant: str, observations: Any) -> Any:
    repository = Repository(root)
    manifest = repository.policy(policy)
    _, content = repository.read_model(policy, variant)
    return OnnxPolicy(content, manifest.observation, len(manifest.actions))(observations)


def test_the_response_has_the_models_q_values(
    service: Any, tiny_repository: Any, observations: Any
) -> None:
    q_values = expected(tiny_repository, "tiny", "fp32", observations)
    answer = service.act("tiny", observations.tolist())
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert list(document) == ["policy", "variant", "sha256", "actions", "q_values"]
    assert (document["policy"], document["variant"]) == ("tiny", "fp32")
    found = np.array(document["q_values"], dtype=np.float32)
    np.testing.assert_array_equal(found, q_values)
    assert document["actions"] == q_values.argmax(axis=1).tolist()
    manifest = Repository(tiny_repository).variant("tiny", "fp32")
    assert document["sha256"] == manifest.model.sha256


@pytest.mark.parametrize("policy", ["tiny", "tiny_frames"])
def test_json_raw_bytes_and_npy_give_the_same_response(
    service: Any, policy: str, observations: Any, frames: Any
) -> None:
    array = frames if policy == "tiny_frames" else observations
    path = f"/v1/policies/{policy}/act"
    answers = [
        service.act(policy, array.tolist()),
        service.request("POST", path, content=array.tobytes(), headers=RAW),
        service.request("POST", path, content=npy(array), headers=NPY),
    ]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert answers[0].json() == answers[1].json() == answers[2].json()
    assert len(answers[0].json()["actions"]) == len(array)


def test_the_variant_is_chosen_by_path_by_body_or_by_query(service: Any) -> None:
    body = {"observations": [[0, 0, 0, 0]]}
    path = "/v1/policies/tiny"
    requests = [
        (f"{path}/variants/other/act", body, {}),
        (f"{path}/act", {**body, "variant": "other"}, {}),
        (f"{path}/act", body, {"variant": "other"}),
        (f"{path}/variants/other/act", {**body, "variant": "other"}, {"variant": "other"}),
    ]
    for where, content, query in requests:
        answer = service.request("POST", where, json=content, params=query)
        assert answer.json()["variant"] == "other", answer.text
    raw = service.request("POST", f"{path}/act?variant=other", content=bytes(16), headers=RAW)
    assert raw.json()["variant"] == "other"


def test_two_variants_in_one_request_are_a_conflict_that_names_both(service: Any) -> None:
    body = {"observations": [[0, 0, 0, 0]], "variant": "fp32"}
    for path, query in (
        ("/v1/policies/tiny/variants/other/act", {}),
        ("/v1/policies/tiny/act", {"variant": "other"}),
    ):
        answer = service.request("POST", path, json=body, params=query)
        assert answer.status_code == 400
        assert answer.json()["code"] == "conflict"
        assert "'other'" in answer.json()["detail"]
        assert "'fp32'" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "missing", "available"),
    [
        ("/v1/policies/pongg/act", "pongg", ["tiny", "tiny_frames"]),
        ("/v1/policies/tiny/variants/int8/act", "int8", ["fp32", "other"]),
        ("/v1/policies/tiny/act?variant=int8", "int8", ["fp32", "other"]),
        ("/v1/policies/tiny/act?variant=", "", ["fp32", "other"]),
        ("/v1/policies/..%2Ftiny/variants/../act", None, None),
        ("/v1/policies/%00/act", "\x00", ["tiny", "tiny_frames"]),
        ("/v1/policies/" + "x" * 5000 + "/act", None, ["tiny", "tiny_frames"]),
        ("/v1/policies/%F0%9F%92%A9/act", "💩", ["tiny", "tiny_frames"]),
    ],
)
def test_unknown_names_are_404_and_list_the_known_ones(
    service: Any, path: str, missing: str | None, available: list[str] | None
) -> None:
    answer = service.request("POST", path, json={"observations": [[0, 0, 0, 0]]})
    problem = answer.json()
    assert answer.status_code == problem["status"] == 404
    if missing is not None:
        assert problem["received"] == missing
    assert problem.get("available") == available


def bad(body: bytes, headers: Any = JSON, policy: str = "tiny", **expected: Any) -> Any:
    return pytest.param(body, headers, policy, expected, id=f"{expected['code']}-{body[:24]!r}")


NAN = np.array([[1, np.nan, 3, 4]], np.float32)
BAD = [
    bad(b"{", code="malformed-body", status=400, field="body"),
    bad(b"", code="malformed-body", status=400),
    bad(b'{"observations":' + b"[" * 2000, code="malformed-body", status=400),
    bad(b'{"observations":[[1,NaN,1,1]]}', code="invalid-observation", field="observations"),
    bad(b'{"observations":[[1,2]]}', code="invalid-observation", field="observations[0]"),
    bad(b'{"observations":[]}', code="invalid-observation", field="observations"),
    bad(b'{"observations":[[0,0,0,0]],"x":1}', code="invalid-input", field="body"),
    bad(b'{"variant":"%s"}' % (b"x" * 999), code="invalid-input", field="observations"),
    bad(
        b'{"observations":[[0,0,0,0]],"variant":"%s"}' % (b"x" * 999),
        code="invalid-input",
        field="variant",
        limit="at most 64 characters",
        received="999 characters",
    ),
    bad(b"abc", RAW, code="invalid-observation", limit="a positive multiple of 16 bytes"),
    bad(b"", RAW, code="invalid-observation", received="0 bytes"),
    bad(NAN.tobytes(), RAW, code="invalid-observation", field="body"),
    bad(npy(NAN), NPY, code="invalid-observation", field="body"),
    bad(npy(np.zeros((1, 5), np.float32)), NPY, code="invalid-observation", received="(1, 5)"),
    bad(npy(np.zeros((0, 4), np.float32)), NPY, code="invalid-observation", received="empty"),
    bad(npy(np.full((1, 4, 84, 84), 300)), NPY, "tiny_frames", code="invalid-observation"),
    bad(b"x", NPY, code="malformed-body", status=400),
    bad(bytes(16 * 5), RAW, code="over-limit", status=413, limit=4, received="5 observations"),
    bad(bytes(5000), RAW, code="over-limit", status=413, limit=4000, field="body"),
    bad(b"{}", {"content-type": "text/plain"}, code="unsupported-media-type", status=415),
    bad(b"{}", {}, code="unsupported-media-type", status=415, received="no Content-Type"),
    bad(b"{}", {**JSON, "content-encoding": "br"}, code="unsupported-media-type", status=415),
]


@pytest.mark.parametrize(("body", "headers", "policy", "expected"), BAD)
def test_bad_input_is_a_problem_with_field_limit_and_received(
    start: Any, body: bytes, headers: Any, policy: str, expected: dict[str, Any]
) -> None:
    service = start(max_batch=4, max_body_bytes=300_000 if policy == "tiny_frames" else 4000)
    path = f"/v1/policies/{policy}/act"
    answer = service.request("POST", path, content=body, headers=headers)
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.status_code == problem["status"] == expected.pop("status", 422)
    assert {"type", "title", "detail", "field", "limit", "received"} <= set(problem)
    assert problem["code"] == expected.pop("code")
    for name, value in expected.items():
        found = problem[name]
        assert value in found if isinstance(value, str) else value == found
    series = f'slimq_errors_total{{code="{problem["code"]}",policy="{policy}",variant="fp32"}}'
    assert service.metric(series) == 1
    fine = service.act("tiny", [[0, 0, 0, 0]])
    assert fine.status_code == 200, "the service must go on"


def test_non_finite_q_values_are_a_problem_not_invalid_json(service: Any) -> None:
    answer = service.act("tiny", [[0, 0, 0, 0], [3e38, -3e38, 3e38, 3e38]])
    assert answer.status_code == 422
    assert answer.json()["code"] == "non-finite-q-values"
    assert answer.json()["field"] == "observations[1]"


def test_an_internal_error_is_a_problem_and_counted(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("slimq_service.api.v1.codec.render_response", fail)
    answer = service.act("tiny", [[0, 0, 0, 0]])
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret" not in answer.text
    series = 'slimq_errors_total{code="internal",policy="tiny",variant="fp32"}'
    assert service.metric(series) == 1
    assert service.metric("slimq_requests_in_flight") == 0


def test_requests_and_observations_are_counted_separately(service: Any, observations: Any) -> None:
    service.act("tiny", observations.tolist())
    service.act("tiny", observations[:1].tolist())
    labels = '{policy="tiny",variant="fp32"}'
    assert service.metric("slimq_requests_total" + labels) == 2
    assert service.metric("slimq_observations_total" + labels) == 4
    assert service.metric("slimq_inference_seconds_count" + labels) == 2
    assert service.metric("slimq_http_request_seconds_count" + labels) == 2


def test_runs_in_threads_respond_like_inline_runs(start: Any, observations: Any) -> None:
    inline, threaded = start(inline_seconds=1), start(inline_seconds=0, alone_seconds=0)
    answers = [one.act("tiny", observations.tolist()).json() for one in (inline, threaded)]
    assert answers[0] == answers[1]
    path = "/v1/policies/tiny/act"
    body = {"observations": observations.tolist()}
    together = threaded.together(16, "POST", path, json=body)
    assert [answer.json() for answer in together] == [answers[0]] * 16


def test_queued_requests_are_batched_and_each_gets_its_own_q_values(
    start: Any, frames: Any
) -> None:
    service = start(inline_seconds=0, alone_seconds=0, inference_threads=1)
    path = "/v1/policies/tiny_frames/act"
    alone = service.request("POST", path, content=frames.tobytes(), headers=RAW).json()
    state = service.app.catalogue.residents.state("tiny_frames", "fp32")
    compute, all_here = state.loaded.q_function, threading.Event()

    def compute_once_all_are_here(observations: Any, /) -> Any:
        assert all_here.wait(30)
        return compute(observations)

    state.loaded = dataclasses.replace(
        state.loaded, q_function=compute_once_all_are_here, cost=make_cost(1e-3, 1e-6)
    )
    labels = 'policy="tiny_frames",variant="fp32"'

    async def ask() -> Any:
        post = service.client.post
        asked = [
            asyncio.ensure_future(post(path, content=frames.tobytes(), headers=RAW))
            for _ in range(40)
        ]
        queued = 0.0
        while queued < 40 - 16:  # the first batch has gone to the thread
            text = (await service.client.get("/metrics")).text
            (row,) = [row for row in text.splitlines() if row.startswith("slimq_queue_depth ")]
            queued = float(row.rpartition(" ")[2])
        all_here.set()
        return await asyncio.gather(*asked)

    for answer in service.run(asyncio.wait_for(ask(), 60)):
        assert answer.status_code == 200
        np.testing.assert_allclose(answer.json()["q_values"], alone["q_values"], rtol=1e-4)
    batches = service.metric(f"slimq_batch_observations_count{{{labels}}}")
    assert service.metric(f"slimq_batch_observations_sum{{{labels}}}") == 82
    assert batches < 1 + 40
    assert service.metric(f"slimq_queue_seconds_count{{{labels}}}") == 41
    assert service.metric("slimq_queue_depth") == 0


def test_requests_over_the_queue_limit_are_told_when_to_retry(start: Any, frames: Any) -> None:
    service = start(inline_seconds=0, alone_seconds=0, inference_threads=1, queue_requests=1)
    path = "/v1/policies/tiny_frames/act"
    assert service.request("POST", path, content=frames.tobytes(), headers=RAW).is_success
    answers = service.together(60, "POST", path, content=frames.tobytes(), headers=RAW)
    refused = [answer for answer in answers if answer.status_code == 503]
    assert 0 < len(refused) < 60
    for answer in refused:
        assert (answer.json()["code"], answer.json()["limit"]) == ("overloaded", 1)
        assert int(answer.headers["retry-after"]) == answer.json()["retry_after"] >= 1
    assert {answer.status_code for answer in answers} == {200, 503}
    line = 'slimq_errors_total{code="overloaded",policy="tiny_frames",variant="fp32"}'
    assert service.metric(line) == len(refused)


def test_large_json_is_parsed_off_the_event_loop(service: Any, frames: Any) -> None:
    frames = np.concatenate([frames] * 3)  # more than MAX_INLINE_JSON_BYTES
    answer = service.act("tiny_frames", frames.tolist(), params={"variant": "other"})
    assert answer.status_code == 200
    wrong = frames.tolist()
    wrong[1][3][83][83] = 256
    answer = service.act("tiny_frames", wrong)
    assert answer.status_code == 422
    assert "256" in answer.json()["received"]


def test_large_bodies_queued_for_decoding_are_bounded(start: Any, frames: Any) -> None:
    service = start(queue_requests=1)
    path, body = (
        "/v1/policies/tiny_frames/act",
        {"observations": np.concatenate([frames] * 3).tolist()},
    )
    answers = service.together(8, "POST", path, json=body)
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) >= 1
    assert statuses.count(503) >= 1
    assert {answer.json()["code"] for answer in answers if answer.is_error} == {"overloaded"}
    assert service.metric("slimq_queue_depth") == 0


def test_queued_bytes_are_bounded(start: Any, frames: Any) -> None:
    service = start(queue_bytes=1000)
    path, body = (
        "/v1/policies/tiny_frames/act",
        {"observations": np.concatenate([frames] * 3).tolist()},
    )
    answers = service.together(8, "POST", path, json=body)
    refused = [answer.json() for answer in answers if answer.status_code == 503]
    assert 0 < len(refused) < 8
    assert {(problem["limit"], problem["unit"]) for problem in refused} == {(1000, "bytes")}
    assert service.metric("slimq_queue_bytes") == 0
    assert service.metric("slimq_queue_bytes_limit") == 1000


def test_extreme_observations_do_not_change_other_clients_q_values(start: Any) -> None:
    """The model quantizes its activations by the largest in the batch that it is given."""
    policies = POLICIES
    service = start(policies, inline_seconds=0, inference_threads=1)
    path = "/v1/policies/cartpole/variants/int8-dynamic/act"
    usual, extreme = ({"observations": [[x, 0.02, 0.03, 0.04]]} for x in (0.01, 1e30))
    alone = service.request("POST", path, json=usual).json()

    async def together() -> list[Any]:
        bodies = [extreme, usual] * 12
        return await asyncio.gather(*(service.client.post(path, json=body) for body in bodies))

    answers = service.run(together())
    assert [answer.json() for answer in answers[1::2]] == [alone] * 12
