from __future__ import annotations

import json
from typing import Any

import pytest

from slimq_service.errors import MalformedRequestError
from slimq_service.server.uvicorn_adapter.request_headers import check_host
from wire import receive_all

BODY = b'{"observations": [[0, 0, 0, 0]]}'
ACT = b"POST /v1/policies/tiny/act HTTP/%s\r\nContent-Type: application/json\r\n"
GET = b"GET /healthz HTTP/%s\r\n"
STREAM = (
    b"GET /v1/policies/tiny/stream HTTP/%s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
H2C = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
REQUESTS = {"act": ACT, "get": GET, "stream": STREAM, "h2c": GET + H2C}
VALID = [b"", b"test", b"a_b.example:80", b"127.0.0.1:", b"[::1]:8000", b"a%20b", b" test\t"]
INVALID = [
    b"a b",
    b"a, b",
    b"a/b",
    b"user@test",
    b"test:http",
    b"[::1",
    b"a\\b",
    b"t\xe9st",
    b"<a>",
]


def send(server: Any, start: bytes, *hosts: bytes, version: bytes = b"1.1") -> bytes:
    """The answer to a request with these Host headers, and to what follows it."""
    lines = b"".join(b"Host: %s\r\n" % host for host in hosts)
    content = start % version + lines + b"Content-Length: "
    with server.connect() as connection:
        if start is ACT:
            connection.sendall(content + b"%d\r\nConnection: close\r\n\r\n" % len(BODY) + BODY)
        else:
            connection.sendall(content + b"0\r\n\r\n" + b"GET / HTTP/1.1\r\n\r\n")
        return receive_all(connection)


@pytest.mark.parametrize("hosts", [(), (b"test", b"test"), (b"a", b"b", b"c"), (b"a b",)])
@pytest.mark.parametrize("start", REQUESTS.values(), ids=REQUESTS)
def test_a_request_needs_exactly_one_valid_host(
    server: Any, start: bytes, hosts: tuple[bytes, ...]
) -> None:
    answer = send(server, start, *hosts)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 400 ")
    problem = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (problem["code"], problem["field"]) == ("malformed-request", "Host")
    assert problem["received"] in ("no such header", "2 of them", "3 of them", "'a b'")


@pytest.mark.parametrize("start", [ACT, GET], ids=["act", "get"])
def test_a_request_of_http_1_0_needs_none(server: Any, start: bytes) -> None:
    assert send(server, start, version=b"1.0").startswith(b"HTTP/1.1 200 ")
    assert send(server, start, b"a", b"b", version=b"1.0").startswith(b"HTTP/1.1 400 ")


def test_requests_before_one_without_host_are_answered(server: Any) -> None:
    good = GET % b"1.1" + b"Host: test\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(good * 3 + GET % b"1.1" + b"\r\n" + good)
        answer = receive_all(connection)
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert b"HTTP/1.1 200 OK" not in answer.rpartition(b'{"alive":true}')[2]


def test_a_host_in_the_trailers_is_no_header(server: Any) -> None:
    head = ACT % b"1.1" + b"Host: test\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%s\r\n0\r\nHost: a\r\nHost: b\r\n\r\n" % (len(BODY), BODY)
    with server.connect() as connection:
        connection.sendall((head + chunk) * 2 + GET % b"1.1" + b"\r\n")
        assert receive_all(connection).count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize("host", VALID)
def test_valid_hosts(host: bytes) -> None:
    check_host([(b"accept", b"a b"), (b"host", host)], "1.1")


@pytest.mark.parametrize("host", INVALID)
def test_invalid_hosts(host: bytes) -> None:
    with pytest.raises(MalformedRequestError, match="Host: expected a host and optionally a port"):
        check_host([(b"host", host)], "1.1")
