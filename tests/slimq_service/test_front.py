"""The express lane answers what it takes as the act endpoint does, and leaves it the rest."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slimq.core.manifest import Routing
from slimq.core.publish import Publisher
from slimq.core.repository import Repository

PATHS = ("/v1/policies/tiny/act", "/v1/policies/tiny/variants/other/act")
JSON = [(b"content-type", b"application/json")]
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
    """Sends one request to an ASGI application, message by message."""

    def __init__(self, service: Any, app: Any) -> None:
        self.service, self.app = service, app

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
        self.service.run(self.app(scope, receive, send))
        if not sent:
            return [], {}, b""
        found = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return [sent[0]["status"]], found, body


def lanes(service: Any) -> Any:
    """The front itself, without what lies around it: nothing but what gives requests their ids."""
    return service.app.state.front._app


@pytest.fixture(scope="module")
def service(shared: Any, in_process: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = in_process(shared.build_repository(tmp_path_factory.mktemp("front") / "policies"))
    for path in PATHS:
        assert made.request("POST", path, json={"observations": GOOD[0]}).status_code == 200
    yield made
    made.close()


def whole(body: bytes) -> list[dict[str, Any]]:
    return [{"type": "http.request", "body": body, "more_body": False}]


def sized(body: bytes, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [*JSON, (b"content-length", str(len(body)).encode()), *more]


def both(service: Any, path: str, messages: Any, headers: Any, **options: Any) -> Any:
    front = Caller(service, lanes(service))(path, messages, headers, **options)
    plain = Caller(service, service.app)(path, messages, headers, **options)
    assert front == plain
    return front


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rows", GOOD)
def test_what_it_takes_it_answers_to_the_byte(service: Any, path: str, rows: Any) -> None:
    body = json.dumps({"observations": rows}).encode()
    (status,), headers, answer = both(service, path, whole(body), sized(body))
    assert status == 200
    assert headers == {"content-type": "application/json", "content-length": str(len(answer))}
    q_values = np.float32(json.loads(answer)["q_values"])
    assert json.loads(answer)["actions"] == q_values.argmax(axis=1).tolist()


def test_it_needs_the_act_endpoint_for_none_of_these(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = lanes(service)
    monkeypatch.setattr(front, "_act", None)
    for path in PATHS:
        for rows in GOOD:
            body = json.dumps({"observations": rows}).encode()
            (status,), _, _ = Caller(service, front)(path, whole(body), sized(body))
            assert status == 200


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


def test_both_ways_count_alike(service: Any) -> None:
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
    for app in (lanes(service), service.app):
        before = [service.metric(line) for line in lines]
        stats = statistics(service)
        Caller(service, app)(PATHS[1], whole(GOOD_BODY), sized(GOOD_BODY))
        after = [service.metric(line) for line in lines]
        counts.append(
            [b - a for a, b in zip(before, after, strict=True)]
            + [statistics(service)[key] - stats[key] for key in stats]
        )
    assert counts[0] == counts[1]
    left, right = counts[0].pop(10), counts[0].pop(10)
    assert left + right == 3
    assert counts[0] == [1, 3, 1, 1, 1, 1, 1, 1, 3, 1, 3, 1]


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
    sha = repositories.publish("tiny", "fp32", repositories.shared.make_mlp(7))
    service.get("/readyz")

    async def settle() -> None:
        while service.app.state.catalogue.state("tiny", "fp32").task is not None:
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
