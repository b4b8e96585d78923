"""A request is answered alike however it arrives: alone, in a crowd, in pieces, by the router."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders import build_repository, make_mlp
from slimq.core.manifest import Routing
from slimq.core.publish import Publisher
from slimq.core.repository import Repository
from slimq_service.decoding import frames_in_json as digits
from slimq_service.errors import DeadlineError
from waiting import until

PATHS = ("/v1/policies/tiny/act", "/v1/policies/tiny/variants/other/act")
FRAMES = "/v1/policies/tiny_frames/act"
JSON = [(b"content-type", b"application/json")]
RAW = [(b"content-type", b"application/octet-stream")]
GOOD = [
    [[0, 0, 0, 0]],
    [[0.1, -2.5, 3e-5, 1e30]],
    [[1, 2, 3, 4], [5.5, 6, 7, 8], [-1, -2, -3, -4]],
]
ODD = [
    b'{"observations": [[3.4028234663852886e38, 0, 0, 0]]}',
    b'{"observations": [[-3.4e38, 3.4e38, 3.4e38, 3.4e38]]}',
    b"{",
    b"",
    b"[]",
    b"null",
    b'{"observations": []}',
    b'{"observations": [0, 0, 0, 0]}',
    b'{"observations": [[0, 0, 0]]}',
    b'{"observations": [[0, 0, 0, true]]}',
    b'{"observations": [[0, 0, 0, null]]}',
    b'{"observations": [[0, 0, 0, "1"]]}',
    b'{"observations": [[0, 0, 0, 1e39]]}',
    b'{"observations": [[0, 0, 0, 3.5e38]]}',
    b'{"observations": [[0, 0, 0, 3.40282347e38]]}',
    b'{"observations": [[0, 0, 0, NaN]]}',
    b'{"observations": [[0, 0, 0, 1' + b"0" * 400 + b"]]}",
    b'{"observations": [[0, 0, 0, 0]], "variant": "other"}',
    b'{"observations": [[0, 0, 0, 0]], "variant": "none"}',
    b'{"observations": [[0, 0, 0, 0]], "extra": 1}',
    b'{"observations": [[0, 0, 0, 0]], "observations": [[1, 1, 1, 1]]}',
    b'{"Observations": [[0, 0, 0, 0]]}',
    json.dumps({"observations": [[0, 0, 0, 0]] * 300}).encode(),
    json.dumps({"observations": [[0.125] * 4] * 250}).encode() + b" " * 20_000,
]


class Caller:
    """Sends one request to an ASGI application, message by message.

    It comes alone, as far as the server knows, or is the first of a `crowd`.
    """

    def __init__(self, service: Any, app: Any, *, crowd: bool = False) -> None:
        self.service, self.app, self._crowd = service, app, crowd

    def __call__(
        self,
        path: str,
        messages: list[dict[str, Any]],
        headers: list[tuple[bytes, bytes]],
        query: bytes = b"",
        late: bool = False,
    ) -> tuple[list[Any], dict[str, str], bytes]:
        waiting, sent = list(messages), []

        async def receive() -> Any:
            if late:
                await asyncio.sleep(0)
            return waiting.pop(0) if waiting else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http",
            "http_version": "1.1",
            "query_string": query,
            "headers": headers,
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 81),
        }
        arrivals = self.service.app.arrivals
        arrivals.tracked, arrivals.pending = True, int(self._crowd)
        try:
            self.service.run(self.app(scope, receive, send))
        finally:
            arrivals.pending = 0
        if not sent:
            return [], {}, b""
        found = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
        found.pop("x-request-id", None)
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return [sent[0]["status"]], found, body


@pytest.fixture(scope="module")
def service(in_process: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = in_process(build_repository(tmp_path_factory.mktemp("front") / "policies"))
    for path in PATHS:
        assert made.request("POST", path, json={"observations": GOOD[0]}).status_code == 200
    frames = made.request("POST", FRAMES, content=bytes(FRAME_BYTES), headers=dict(RAW))
    assert frames.status_code == 200
    yield made
    made.close()


FRAME_BYTES = 4 * 84 * 84


def whole(body: bytes) -> list[dict[str, Any]]:
    return [{"type": "http.request", "body": body, "more_body": False}]


def sized(body: bytes, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [*JSON, (b"content-length", str(len(body)).encode()), *more]


def raw(body: bytes, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [*RAW, (b"content-length", str(len(body)).encode()), *more]


def both(service: Any, path: str, messages: Any, headers: Any, **options: Any) -> Any:
    """The one answer of a request that comes alone, in a crowd, and by way of the router."""
    app = service.app.asgi
    alone = Caller(service, app)(path, messages, headers, **options)
    crowd = Caller(service, app, crowd=True)(path, messages, headers, **options)
    routed = Caller(service, service.app.routes)(path, messages, headers, **options)
    if "request_id" in alone[2].decode("latin-1"):
        alone, crowd, routed = map(without_id, (alone, crowd, routed))
    assert alone == crowd == routed
    return alone


def without_id(answer: Any) -> Any:
    status, headers, body = answer
    document = json.loads(body)
    document.pop("request_id", None)
    return status, {**headers, "content-length": ""}, json.dumps(document).encode()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rows", GOOD)
def test_what_it_takes_it_answers_to_the_byte(service: Any, path: str, rows: Any) -> None:
    body = json.dumps({"observations": rows}).encode()
    (status,), headers, answer = both(service, path, whole(body), sized(body))
    assert status == 200
    assert headers == {"content-type": "application/json", "content-length": str(len(answer))}
    q_values = np.float32(json.loads(answer)["q_values"])
    assert json.loads(answer)["actions"] == q_values.argmax(axis=1).tolist()


VECTORS = np.float32(GOOD[2]).tobytes()
NAN = np.float32([[0, 0, 0, 0], [0, 0, np.nan, 0]]).tobytes()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (PATHS[0], VECTORS, 200),
        (PATHS[0], VECTORS[:-1], 422),
        (PATHS[0], NAN, 422),
        (PATHS[0], b"", 422),
        (PATHS[0], VECTORS * 200, 413),
        (FRAMES, bytes(range(256)) * (FRAME_BYTES // 256) + bytes(FRAME_BYTES % 256), 200),
        (FRAMES, bytes(3 * FRAME_BYTES), 200),
        (FRAMES, bytes(FRAME_BYTES + 1), 422),
        (FRAMES, bytes(10 * FRAME_BYTES), 200),  # more than the lane reads
    ],
)
def test_raw_bytes_are_answered_as_ever(service: Any, path: str, body: bytes, status: int) -> None:
    for late in (False, True):
        (found,), _, _ = both(service, path, whole(body), raw(body), late=late)
        assert found == status


INFER = "/v2/models/tiny/versions/other/infer"
INFER_FRAMES = "/v2/models/tiny_frames/infer"
BINARY = {"binary_data_output": True}


def tensor(shape: list[int], datatype: str, size: int, **more: Any) -> dict[str, Any]:
    parameters = {"binary_data_size": size}
    entry = {"name": "observations", "shape": shape, "datatype": datatype}
    return {"inputs": [{**entry, "parameters": parameters}], "parameters": BINARY, **more}


def framed(document: Any, numbers: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Body and headers of a request with binary tensors."""
    head = document if isinstance(document, bytes) else json.dumps(document).encode()
    body = head + numbers
    length = (b"inference-header-content-length", str(len(head)).encode())
    return body, [(b"content-length", str(len(body)).encode()), length]


VECTOR_TENSOR = tensor([3, 4], "FP32", 48)
FRAME_TENSOR = tensor([2, 4, 84, 84], "UINT8", 2 * FRAME_BYTES)
Q_ONLY = {"outputs": [{"name": "q_values"}]}
IN_JSON = {"name": "q_values", "parameters": {"binary_data": False}}
MIXED = {"outputs": [{"name": "actions"}, IN_JSON]}
BINARY_REQUESTS = [
    (INFER, VECTOR_TENSOR, VECTORS, 200),
    (INFER, VECTOR_TENSOR | Q_ONLY, VECTORS, 200),
    (INFER, VECTOR_TENSOR | MIXED, VECTORS, 200),
    (INFER, VECTOR_TENSOR | {"id": "7"}, VECTORS, 200),
    (INFER, VECTOR_TENSOR | {"parameters": {}}, VECTORS, 200),
    (INFER, tensor([2, 4], "FP32", 32), NAN, 400),
    (INFER, VECTOR_TENSOR, VECTORS[:-4], 400),
    (INFER, VECTOR_TENSOR, VECTORS + VECTORS, 400),
    (INFER, tensor([3, 4], "FP64", 48), VECTORS, 400),
    (INFER, VECTOR_TENSOR | {"odd": "x" * 2000}, VECTORS, 200),
    (INFER, b"{", VECTORS, 400),
    (INFER, b"", VECTORS, 200),
    (INFER_FRAMES, FRAME_TENSOR, bytes(range(256)) * (2 * FRAME_BYTES // 256) + bytes(128), 200),
    (INFER_FRAMES, FRAME_TENSOR | Q_ONLY, bytes(2 * FRAME_BYTES), 200),
    (INFER_FRAMES, FRAME_TENSOR, bytes(FRAME_BYTES), 400),
]


@pytest.mark.parametrize(("path", "document", "numbers", "status"), BINARY_REQUESTS)
def test_binary_tensors_are_answered_as_ever(
    service: Any, path: str, document: Any, numbers: bytes, status: int
) -> None:
    body, headers = framed(document, numbers)
    for late in (False, True, False):  # what was read of the JSON may be known by then
        (found,), _, _ = both(service, path, whole(body), headers, late=late)
        assert found == status


FRAME = (np.arange(FRAME_BYTES) % 256).astype(np.uint8).reshape(1, 4, 84, 84)


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({"observations": FRAME.tolist()}, 200),
        ({"observations": FRAME[0].tolist()}, 200),
        ({"observations": FRAME[:, :2].tolist()}, 422),
        ({"observations": (FRAME[0, 0] + np.int64(1)).tolist()}, 422),
        ({"observations": (FRAME + np.int64(1)).tolist()}, 422),
        ({"observations": (FRAME * 0.5).tolist()}, 422),
        ({"observations": FRAME.tolist(), "variant": "other"}, 200),
        ({"observations": FRAME.tolist(), "variant": "none"}, 404),
        ({"observations": FRAME.tolist(), "odd": 1}, 422),
        ({"observation": FRAME.tolist()}, 422),
        ({"odd": FRAME.tolist(), "observations": 0}, 422),
        ({"variant": FRAME.tolist(), "observations": 0}, 422),
        ({"observations": FRAME.tolist(), "variant": float("nan")}, 422),
        ({"observations": {"observations": FRAME.tolist()}}, 422),
        (FRAME.tolist(), 422),
    ],
    ids=range(15),
)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_frames_as_json_are_answered_as_ever(
    service: Any, document: Any, status: int, separators: Any
) -> None:
    body = json.dumps(document, separators=separators).encode()
    (found,), _, _ = both(service, FRAMES, whole(body), sized(body))
    assert found == status


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ('{"observations": -%s}', 400),
        ('{"observations": %se7}', 400),
        ('{"observations":0.%s}', 400),
        ('{"observations": 5%s}', 400),
        ('{"observations": %s,}', 400),
        ('{"observations": "%s"}', 422),
        ('{"observations": %s, "observations": 0}', 422),
        ('{"observations": %s, "observations": false}', 422),
        ('{"variant": %s, "variant": null, "observations": 0}', 422),
        ('{"observations": 1, "observations": %s}', 200),
    ],
)
def test_errors_around_frames_speak_of_what_was_sent(service: Any, form: str, status: int) -> None:
    body = (form % json.dumps(FRAME.tolist())).encode()
    (found,), _, answer = both(service, FRAMES, whole(body), sized(body))
    assert found == status
    assert str(digits.PLACEHOLDER) not in answer.decode()


def test_what_a_head_of_json_was_once_says_nothing_of_numbers_behind_it(service: Any) -> None:
    """An input is JSON or binary; the same head is right with the one and wrong with the other."""
    entry = {"name": "observations", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
    document = {"inputs": [entry], "parameters": BINARY}
    alone, behind = framed(document, b""), framed(document, VECTORS[:16])
    for body, headers in (behind, alone, behind, alone):
        (found,), _, _ = both(service, INFER, whole(body), headers)
        assert found == (200 if body == alone[0] else 400)


def test_requests_keep_no_variant_in_memory_once_they_are_answered(start: Any) -> None:
    service = start()
    body, headers = framed(VECTOR_TENSOR, VECTORS)
    for path, content, head in ((PATHS[1], GOOD_BODY, sized(GOOD_BODY)), (INFER, body, headers)):
        assert Caller(service, service.app.asgi)(path, whole(content), head)[0] == [200]
    session = weakref.ref(service.app.catalogue.residents.state("tiny", "other").loaded)
    service.run(service.app.catalogue.unload("tiny", "other"))
    gc.collect()
    assert session() is None
    answer = Caller(service, service.app.asgi)(PATHS[1], whole(GOOD_BODY), sized(GOOD_BODY))
    assert answer[0] == [200]


def test_a_refused_request_leaves_nothing_of_its_observations_behind(start: Any) -> None:
    service = start(inline_seconds=0, alone_seconds=0)
    assert service.request("POST", PATHS[1], json={"observations": GOOD[0]}).is_success
    state = service.app.catalogue.residents.state("tiny", "other")
    seen: list[Any] = []

    def fail(observations: Any, /) -> Any:
        seen.append(weakref.ref(observations))
        raise DeadlineError(1.0)

    state.loaded = dataclasses.replace(state.loaded, q_function=fail)
    caller = Caller(service, service.app.asgi)
    gc.collect()
    gc.disable()
    try:
        (status,), headers, _ = caller(PATHS[1], whole(GOOD_BODY), sized(GOOD_BODY))
        assert (status, headers["retry-after"]) == (503, "1")
        until(lambda: seen[0]() is None, 5, every=0.001)  # the thread may be about to forget it
    finally:
        gc.enable()


@pytest.mark.parametrize("options", [{}, {"inline_seconds": 0, "alone_seconds": 0}])
def test_frames_are_answered_alike_in_every_form(start: Any, options: Any) -> None:
    service = start(**options)
    content = FRAME.tobytes() * 2
    in_json = json.dumps({"observations": [*FRAME.tolist(), *FRAME.tolist()]}).encode()
    answers = {
        both(service, FRAMES, whole(body), headers)[2]
        for body, headers in ((content, raw(content)), (in_json, sized(in_json)))
    }
    (answer,) = answers
    assert len(json.loads(answer)["actions"]) == 2


@pytest.mark.parametrize("body", ODD, ids=lambda body: body[:48].decode())
def test_what_is_odd_is_answered_as_ever(service: Any, body: bytes) -> None:
    for path in PATHS:
        both(service, path, whole(body), sized(body))
        both(service, path, whole(body), sized(body), late=True)


GOOD_BODY = json.dumps({"observations": GOOD[2]}).encode()


@pytest.mark.parametrize(
    ("headers", "options"),
    [
        (sized(GOOD_BODY), {"query": b"variant=other"}),
        (sized(GOOD_BODY), {"query": b"variant=none"}),
        (sized(GOOD_BODY), {"query": b"x=1"}),
        ([(b"content-length", b"5")], {}),
        (JSON, {}),
        ([(b"content-type", b"application/json; charset=utf-8")], {}),
        ([(b"content-type", b"text/plain")], {}),
        (sized(GOOD_BODY, (b"content-encoding", b"gzip")), {}),
        ([*JSON, (b"content-length", b"many")], {}),
        ([*JSON, (b"content-length", b"99999999999")], {}),
    ],
)
def test_odd_headers_and_queries_too(service: Any, headers: Any, options: Any) -> None:
    both(service, PATHS[0], whole(GOOD_BODY), headers, **options)


@pytest.mark.parametrize(
    ("length", "more", "status"),
    [
        (b"99999999999", [(b"expect", b"100-continue")], 413),
        (b"99999999999", [], 413),
        (str(len(GOOD_BODY)).encode(), [(b"content-encoding", b"br")], 415),
    ],
)
def test_a_body_that_is_refused_by_its_head_is_not_asked_for(
    service: Any, length: bytes, more: Any, status: int
) -> None:
    """To ask is to tell the client that it may send it."""
    sent: list[Any] = []

    async def receive() -> Any:
        assert sent, "the answer comes first"
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": PATHS[0], "query_string": b""}
    headers = [*JSON, (b"content-length", length), *more]
    service.run(service.app.asgi({**scope, "headers": headers}, receive, send))
    assert sent[0]["status"] == status


def test_a_client_that_waits_to_be_told_is_answered_as_ever(service: Any) -> None:
    headers = sized(GOOD_BODY, (b"expect", b"100-continue"))
    (status,), _, _ = both(service, PATHS[0], whole(GOOD_BODY), headers)
    assert status == 200


@pytest.mark.parametrize("late", [False, True])
def test_bodies_in_parts_and_clients_that_go(service: Any, late: bool) -> None:
    parts = [
        {"type": "http.request", "body": GOOD_BODY[:10], "more_body": True},
        {"type": "http.request", "body": GOOD_BODY[10:], "more_body": False},
    ]
    (status,), _, _ = both(service, PATHS[0], parts, sized(GOOD_BODY), late=late)
    assert status == 200
    both(service, PATHS[0], parts[:1], sized(GOOD_BODY), late=late)
    both(service, PATHS[0], [], sized(GOOD_BODY), late=late)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/policies/none/act",
        "/v1/policies/tiny/variants/none/act",
        "/v1/policies//act",
        "/v1/policies/tiny/variants//act",
        "/v1/policies/tiny/other/act",
        "/v1/policies/tiny/act/",
        "/v1/policies/tiny/variants/fp32/infer",
        "/v2/models/tiny/infer",
        "/v2/models/tiny/versions/other/infer",
        "/v2/models/none/infer",
        "x/v1/policies/tiny/act",
        "act",
        "",
    ],
)
def test_every_path_leads_where_the_router_leads(service: Any, path: str) -> None:
    both(service, path, whole(GOOD_BODY), sized(GOOD_BODY))


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(
        st.lists(
            st.one_of(st.integers(-(10**6), 10**6), st.floats(width=64), st.booleans()),
            min_size=3,
            max_size=5,
        ),
        max_size=3,
    )
)
def test_any_rows_are_answered_alike(service: Any, rows: Any) -> None:
    body = json.dumps({"observations": rows}).encode()
    both(service, PATHS[0], whole(body), sized(body))


@pytest.mark.parametrize("crowd", [False, True])
@pytest.mark.parametrize("options", [{}, {"inline_seconds": 0}])
def test_both_ways_count_alike(start: Any, options: dict[str, Any], crowd: bool) -> None:
    """In the event loop, and alone in turn."""
    service = start(**options)
    assert service.request("POST", PATHS[1], json={"observations": GOOD[0]}).is_success
    labels = '{policy="tiny",variant="other"}'
    names = [
        "slimq_requests_total",
        "slimq_observations_total",
        "slimq_inference_seconds_count",
        "slimq_queue_seconds_count",
        "slimq_http_request_seconds_count",
        "slimq_parse_seconds_count",
        "slimq_response_seconds_count",
        "slimq_batch_observations_count",
        "slimq_batch_observations_sum",
    ]
    of_variant = labels[1:-1].partition(",")
    lines = [
        *(name + labels for name in names),
        f'slimq_batches_total{{{of_variant[0]},reason="inline",{of_variant[2]}}}',
        *(f'slimq_actions_total{{action="{action}",{labels[1:]}' for action in ("left", "right")),
    ]
    counts = []
    for app in (service.app.asgi, service.app.routes):
        before = [service.metric(line) for line in lines]
        stats = statistics(service)
        Caller(service, app, crowd=crowd)(PATHS[1], whole(GOOD_BODY), sized(GOOD_BODY))
        after = [service.metric(line) for line in lines]
        counts.append(
            [b - a for a, b in zip(before, after, strict=True)]
            + [statistics(service)[key] - stats[key] for key in stats]
        )
    assert counts[0] == counts[1]
    left, right = counts[0].pop(10), counts[0].pop(10)
    assert left + right == 3
    assert counts[0] == [1, 3, 1, 1, 1, 1, 1, 1, 3, 1, 3, 1]
    assert service.metric("slimq_requests_in_flight") == 0
    assert service.app.catalogue.residents.state("tiny", "other").loaded.leases.count == 0


@pytest.mark.parametrize("options", [{}, {"inline_seconds": 0}])
def test_what_goes_wrong_in_turn_is_answered_and_counted_as_ever(
    start: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    service = start(**options)
    assert service.request("POST", PATHS[1], json={"observations": GOOD[0]}).is_success
    state = service.app.catalogue.residents.state("tiny", "other")

    def fail(observations: Any, /) -> Any:
        return np.full((len(observations), 2), np.nan, np.float32)

    broken = dataclasses.replace(state.loaded, q_function=fail)
    monkeypatch.setattr(state, "loaded", broken)
    (status,), _, answer = both(service, PATHS[1], whole(GOOD_BODY), sized(GOOD_BODY))
    assert (status, json.loads(answer)["code"]) == (422, "non-finite-q-values")
    labels = 'policy="tiny",variant="other"'
    assert service.metric(f'slimq_errors_total{{code="non-finite-q-values",{labels}}}') == 3
    assert service.metric(f"slimq_requests_total{{{labels}}}") == 4
    assert service.metric("slimq_requests_in_flight") == 0
    assert broken.leases.count == 0


def test_requests_of_one_turn_share_a_run_and_each_gets_its_own_answer(start: Any) -> None:
    service = start()
    rows = [[[float(number), 0.0, 0.0, 0.0]] for number in range(8)]
    alone = [service.act("tiny", row).json() for row in rows]
    labels = 'policy="tiny",variant="fp32"'
    batches = f"slimq_batch_observations_count{{{labels}}}"
    before = service.metric(batches)

    async def ask(row: Any) -> Any:
        path = "/v1/policies/tiny/act"
        return (await service.client.post(path, json={"observations": row})).json()

    async def ask_all() -> Any:
        return await asyncio.gather(*map(ask, rows))

    service.app.arrivals.pending = 1
    answers = service.run(ask_all())
    for answer, expected in zip(answers, alone, strict=True):
        assert answer["actions"] == expected["actions"]
        np.testing.assert_allclose(answer["q_values"], expected["q_values"], atol=1e-5)
    assert service.metric(batches) == before + 1
    assert service.metric(f"slimq_requests_total{{{labels}}}") == 16


def statistics(service: Any) -> dict[str, int]:
    found = service.get("/v2/models/tiny/versions/other/stats").json()["model_stats"][0]
    return {key: found[key] for key in ("inference_count", "execution_count")}


def test_new_versions_defaults_and_weights_are_followed(
    start: Any, repositories: Any, tiny_repository: Path
) -> None:
    service = start()
    publisher = Publisher(Repository(tiny_repository))

    def answered() -> Any:
        return service.act("tiny", GOOD[0]).json()

    first = answered()
    assert answered() == first
    sha = repositories.publish("tiny", "fp32", make_mlp(7))
    service.get("/readyz")

    async def settle() -> None:
        while service.app.catalogue.residents.state("tiny", "fp32").task is not None:
            await asyncio.sleep(0.01)

    service.run(settle())
    assert answered()["sha256"] == sha != first["sha256"]
    publisher.promote("tiny", "other")
    service.get("/readyz")
    assert {answered()["variant"] for _ in range(3)} == {"other"}
    publisher.route("tiny", Routing(weights={"fp32": 1}))
    service.get("/readyz")
    assert {answered()["variant"] for _ in range(3)} == {"fp32"}
    publisher.route("tiny", None)
    body = {"parameters": {"variants": ["other"]}}
    service.get("/readyz")
    answered()
    assert service.request("POST", "/v2/repository/models/tiny/unload", json=body).is_success
    assert answered()["variant"] == "other"  # loaded again


def test_actions_have_the_environments_own_numbers_in_every_protocol(
    tiny_repository: Path, start: Any, observations: Any
) -> None:
    """A policy whose first action is 5 (gymnasium's `Discrete(n, start=5)`)."""
    path = tiny_repository / "tiny" / "policy.json"
    plain = start().act("tiny", observations.tolist()).json()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"action_start": 5}))
    service = start()
    expected = [action + 5 for action in plain["actions"]]
    found = service.act("tiny", observations.tolist()).json()
    assert found == plain | {"actions": expected}
    raw = service.request(
        "POST",
        "/v1/policies/tiny/act",
        content=observations.tobytes(),
        headers={"content-type": "application/octet-stream"},
    )
    assert raw.json()["actions"] == expected
    body = {"observations": observations.tolist()}
    compared = service.request("POST", "/v1/policies/tiny/compare", json=body).json()["variants"]
    assert compared[0]["actions"] == expected
    tensor = {"name": "observations", "datatype": "FP32", "shape": list(observations.shape)}
    inputs = [tensor | {"data": observations.ravel().tolist()}]
    infer = "/v2/models/tiny/versions/fp32/infer"
    outputs = service.request("POST", infer, json={"inputs": inputs}).json()["outputs"]
    assert {output["name"]: output for output in outputs}["actions"]["data"] == expected
    options = {"parameters": {"binary_data_output": True}, "outputs": [{"name": "actions"}]}
    binary = service.request("POST", infer, json={"inputs": inputs, **options})
    length = int(binary.headers["inference-header-content-length"])
    assert np.frombuffer(binary.content[length:], "<i8").tolist() == expected
