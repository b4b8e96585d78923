from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import numpy as np
import pytest

from slimq.core.client import SlimqClient
from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import InvalidInputError, ObservationError, ServiceError
from slimq.core.manifest import PolicyManifest, RandomPolicyRecord, TrainingRecord
from slimq.core.observation import ObservationSpec

MANIFEST = PolicyManifest(
    name="tiny",
    environment=EnvironmentSpec(id="CartPole-v1"),
    observation=ObservationSpec(dtype="float32", shape=(2,)),
    actions=["left", "right"],
    training=TrainingRecord(
        config={}, seed=0, steps=0, updates=0, seconds=0, hardware="", versions={}, curve=[]
    ),
    random_policy=RandomPolicyRecord(mean=0, episodes=1, seeds="selection"),
)
ANSWER = {
    "policy": "tiny",
    "variant": "int8",
    "sha256": "0" * 64,
    "actions": [1, 0],
    "q_values": [[0.1, 0.2], [3.0, -1.0]],
}


def client_of(handler: Callable[[httpx.Request], httpx.Response]) -> SlimqClient:
    return SlimqClient("http://test/", transport=httpx.MockTransport(handler))


def answering(requests: list[httpx.Request]) -> Callable[[httpx.Request], httpx.Response]:
    def handle(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        if request.method == "POST":
            return httpx.Response(200, json=ANSWER)
        if request.url.path == "/v1/policies":
            return httpx.Response(200, json={"policies": [{"name": "tiny"}]})
        if request.url.path.endswith("/variants"):
            return httpx.Response(200, json={"variants": [{"name": "fp32"}, {"name": "int8"}]})
        return httpx.Response(200, content=MANIFEST.model_dump_json())

    return handle


def test_policies_and_variants_are_listed() -> None:
    with client_of(answering([])) as client:
        assert client.policies() == ["tiny"]
        assert client.policy("tiny") == MANIFEST
        assert client.variants("tiny") == ["fp32", "int8"]


def test_observations_travel_as_raw_little_endian_bytes() -> None:
    requests: list[httpx.Request] = []
    observations = np.array([[1, 2], [3, 4]], ">f8")
    with client_of(answering(requests)) as client:
        result = client.act("tiny", observations, "int8")
        client.act("tiny", observations)
    assert [request.url.path for request in requests] == [
        "/v1/policies/tiny",
        "/v1/policies/tiny/variants/int8/act",
        "/v1/policies/tiny/act",
    ]
    assert requests[1].headers["content-type"] == "application/octet-stream"
    assert requests[1].content == observations.astype("<f4").tobytes()
    assert (result.variant, result.sha256) == ("int8", "0" * 64)
    assert result.actions.dtype == np.int64
    assert result.q_values.dtype == np.float32
    assert result.q_values[0, 0] == np.float32(0.1)


def test_a_key_goes_with_every_request_and_nowhere_else() -> None:
    requests: list[httpx.Request] = []
    transport = httpx.MockTransport(answering(requests))
    with SlimqClient("http://test/", transport=transport, api_key="s3cret") as client:
        client.act("tiny", np.zeros((1, 2)))
    assert [request.headers["authorization"] for request in requests] == ["Bearer s3cret"] * 2
    assert "s3cret" not in repr(vars(client))
    with client_of(answering(requests)) as client:
        client.policies()
    assert "authorization" not in requests[-1].headers


@pytest.mark.parametrize("key", ["", "se cret", "secr\u00e9t", "secret\r\nX: y"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_echoed(key: str) -> None:
    with pytest.raises(InvalidInputError, match="API key: expected visible ASCII") as caught:
        SlimqClient("http://test/", api_key=key)
    assert "ecr" not in str(caught.value)


def test_observations_that_do_not_fit_the_policy_are_never_sent() -> None:
    requests: list[httpx.Request] = []
    with client_of(answering(requests)) as client, pytest.raises(ObservationError, match="shape"):
        client.act("tiny", np.zeros((1, 3)))
    assert [request.method for request in requests] == ["GET"]


def test_names_are_quoted_in_the_path() -> None:
    requests: list[httpx.Request] = []
    with client_of(answering(requests)) as client:
        client.policy("../x/y?z")
    assert requests[0].url.raw_path == b"/v1/policies/..%2Fx%2Fy%3Fz"


def test_a_problem_becomes_an_error_with_its_detail() -> None:
    problem = {"status": 404, "detail": "unknown policy 'x'; available: tiny"}
    with (
        client_of(lambda _: httpx.Response(404, json=problem)) as client,
        pytest.raises(ServiceError, match="404 unknown policy 'x'; available: tiny") as caught,
    ):
        client.policy("x")
    assert caught.value.http_status == 404


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (httpx.Response(502, text="bad gateway"), "502 bad gateway"),
        (httpx.Response(503), "503 Service Unavailable"),
        (httpx.Response(200, text="<html>"), "invalid PolicyManifest"),
        (httpx.Response(200, json={"name": "x"}), "invalid PolicyManifest"),
        (httpx.Response(302, headers={"location": "/"}), "302"),
    ],
)
def test_an_unexpected_answer_is_an_error_not_a_crash(answer: httpx.Response, message: str) -> None:
    with client_of(lambda _: answer) as client, pytest.raises(ServiceError, match=message):
        client.policy("tiny")


@pytest.mark.parametrize("content", ["[]", "{}", '{"policies": 3}', '{"policies": [3]}', "x"])
def test_an_unexpected_listing_asks_whether_it_is_slimq(content: str) -> None:
    with (
        client_of(lambda _: httpx.Response(200, text=content)) as client,
        pytest.raises(ServiceError, match="is this a slimq service"),
    ):
        client.policies()


def test_an_unreachable_service_is_named() -> None:
    with (
        SlimqClient("http://127.0.0.1:9") as client,
        pytest.raises(ServiceError, match=r"127\.0\.0\.1:9: cannot be reached"),
    ):
        client.policies()


def test_a_service_that_does_not_answer_times_out() -> None:
    def wait(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow", request=request)

    with client_of(wait) as client, pytest.raises(ServiceError, match="no answer within 10 s"):
        client.policies()


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".invalid"])
def test_an_invalid_host_name_is_refused(host: str) -> None:
    with (
        SlimqClient(f"http://{host}:80") as client,
        pytest.raises(ServiceError, match=r":80: expected a host name with labels of 1 to 63"),
    ):
        client.policies()


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "", "http://"])
def test_an_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(ServiceError, match="expected an address"):
        SlimqClient(url)


@pytest.fixture
def counting() -> Iterator[tuple[str, list[Any]]]:
    """A server that notes each new connection."""
    connections: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            connections.append(self.client_address)
            super().setup()

        def do_GET(self) -> None:
            body = json.dumps({"policies": []}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", connections
    server.shutdown()
    thread.join()
    server.server_close()


def test_one_connection_serves_every_request(counting: tuple[str, list[Any]]) -> None:
    url, connections = counting
    with SlimqClient(url) as client:
        for _ in range(5):
            assert client.policies() == []
    assert len(connections) == 1
