from __future__ import annotations

from typing import Any

import httpx
import pytest

from slimq_service.middleware.server_options import METHODS
from wire import receive_all


def ask(server: Any, start: bytes, *headers: bytes) -> bytes:
    lines = [start + b" HTTP/1.1", b"Host: test", b"Connection: close", *headers, b"", b""]
    with server.connect() as connection:
        connection.sendall(b"\r\n".join(lines))
        return receive_all(connection)


def test_the_service_as_a_whole_has_the_methods_of_its_paths(server: Any) -> None:
    answer = ask(server, b"OPTIONS *")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 204 No Content\r\n")
    assert b"\r\nallow: GET, HEAD, OPTIONS, POST\r\n" in head
    assert b"content-length" not in head
    assert body == b""
    paths = httpx.get(server.url + "/openapi.json").json()["paths"].values()
    supported = {method.upper() for operations in paths for method in operations}
    assert supported | {"HEAD", "OPTIONS"} == set(METHODS)


def test_the_connection_stays_in_step(server: Any) -> None:
    request = b"OPTIONS * HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc"
    with server.connect() as connection:
        connection.sendall(
            request * 3 + b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        answer = receive_all(connection)
    assert (answer.count(b"HTTP/1.1 204"), answer.count(b"HTTP/1.1 200")) == (3, 1)


@pytest.mark.parametrize("start", [b"GET *", b"POST *", b"OPTIONS /*", b"OPTIONS **"])
def test_nothing_else_is_such_a_request(server: Any, start: bytes) -> None:
    answer = ask(server, start)
    assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 "))


def test_it_needs_a_key_and_is_answered_behind_a_prefix(launch_once: Any) -> None:
    server = launch_once(SLIMQ_API_KEY="secret-key-of-the-test", SLIMQ_ROOT_PATH="/slimq")
    assert ask(server, b"OPTIONS *").startswith(b"HTTP/1.1 401 ")
    key = b"X-API-Key: secret-key-of-the-test"
    assert ask(server, b"OPTIONS *", key).startswith(b"HTTP/1.1 204 ")
