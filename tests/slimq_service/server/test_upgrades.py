"""Requests that ask for another protocol, over raw connections to a real process."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest

from wire import receive_all

ACT = "/v1/policies/tiny/act"
BODY = b'{"observations": [[0, 0, 0, 0]]}'
NEXT = b"GET /healthz HTTP/1.1\r\nHost: next\r\n\r\n"
LAST = b"GET /v2 HTTP/1.1\r\nHost: last\r\nConnection: close\r\n\r\n"
SMUGGLED = b"GET /v1/policies HTTP/1.1\r\nHost: smuggled\r\n\r\n"

H2C = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAA"]
"""As Java's HttpClient and `curl --http2` send them."""
UPGRADES = {
    "h2c": H2C,
    "tls": ["Upgrade: TLS/1.0", "Connection: upgrade"],
    "unknown": ["connection: keep-alive,UPGRADE", "upgrade: x/1, y/2, z"],
    "several lines": ["Upgrade: a", "Connection: foo", "Upgrade: b", "Connection: upgrade"],
    "websocket, which begins with GET": ["Connection: Upgrade", "Upgrade: websocket"],
    "no connection option": ["Upgrade: h2c"],
    "nothing": ["Connection: Upgrade", "Upgrade:"],
}
SIZED = [f"Content-Length: {len(BODY)}"], BODY
CHUNKED = (
    ["Transfer-Encoding: chunked"],
    b"5\r\n%s\r\n%x\r\n%s\r\n0\r\nTrailer: x\r\n\r\n" % (BODY[:5], len(BODY) - 5, BODY[5:]),
)


def post(
    upgrade: Iterable[str], framing: tuple[list[str], bytes] = SIZED, path: str = ACT
) -> bytes:
    headers, body = framing
    lines = [f"POST {path} HTTP/1.1", "Host: test", *upgrade]
    lines += ["Content-Type: application/json", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def answers(content: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each, which together are all of the content."""
    found = []
    while content:
        head, _, rest = content.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = int(fields[b"content-length"])
        assert len(rest) >= length, content
        found.append((status, rest[:length]))
        content = rest[length:]
    return found


def exchange(server: Any, content: bytes, step: int | None = None) -> list[tuple[int, bytes]]:
    """Sends it in pieces of `step` bytes, and reads what is answered until the connection ends."""
    with server.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        step = step or len(content)
        for start in range(0, len(content), step):
            connection.sendall(content[start : start + step])
        return answers(receive_all(connection))


@pytest.mark.parametrize("step", [None, 1, 7], ids=["whole", "bytes", "pieces"])
@pytest.mark.parametrize("framing", [SIZED, CHUNKED], ids=["sized", "chunked"])
@pytest.mark.parametrize("upgrade", UPGRADES.values(), ids=UPGRADES)
def test_an_upgrade_that_is_not_accepted_is_as_if_it_were_not_there(
    server: Any, upgrade: list[str], framing: Any, step: int | None
) -> None:
    ((_, expected), _) = exchange(server, post([]) + LAST)
    request = post(upgrade, framing)
    found = exchange(server, request + request + NEXT + LAST, step)
    assert [status for status, _ in found] == [200] * 4
    assert found[0][1] == found[1][1] == expected
    assert found[2][1] == b'{"alive":true}'


@pytest.mark.parametrize("cut", range(1, 260, 3))
def test_it_does_not_matter_where_a_request_is_cut(server: Any, cut: int) -> None:
    content = post(H2C) + NEXT + LAST
    with server.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(content[:cut])
        time.sleep(0.005)
        connection.sendall(content[cut:])
        assert [status for status, _ in answers(receive_all(connection))] == [200] * 3


@pytest.mark.parametrize("framing", ["sized", "chunked"])
@pytest.mark.parametrize("upgrade", UPGRADES.values(), ids=UPGRADES)
def test_a_body_is_never_another_request(server: Any, upgrade: list[str], framing: str) -> None:
    if framing == "sized":
        inner = [f"Content-Length: {len(SMUGGLED)}"], SMUGGLED
    else:
        inner = (
            ["Transfer-Encoding: chunked"],
            b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
        )
    found = exchange(server, post(upgrade, inner) + LAST)
    assert [status for status, _ in found] == [400, 200]
    assert json.loads(found[0][1])["code"] == "malformed-body"


def test_a_request_without_a_body_is_answered_and_the_next_too(server: Any) -> None:
    head = "\r\n".join(["GET /healthz HTTP/1.1", "Host: test", *H2C, "", ""]).encode()
    found = exchange(server, head * 3 + LAST)
    assert [status for status, _ in found] == [200] * 4


def test_many_at_once_are_each_answered_once(server: Any) -> None:
    found = exchange(server, post(H2C) * 90 + LAST)
    assert [status for status, _ in found] == [200] * 91


def test_http_1_0_knows_no_upgrade_and_ends_the_connection(server: Any) -> None:
    for protocol in ("h2c", "websocket"):
        lines = ["GET /healthz HTTP/1.0", "Connection: Upgrade", f"Upgrade: {protocol}", "", ""]
        found = exchange(server, "\r\n".join(lines).encode() + SMUGGLED)
        assert found == [(200, b'{"alive":true}')]


def test_close_beside_an_upgrade_closes(server: Any) -> None:
    found = exchange(server, post(["Connection: close, upgrade", "Upgrade: h2c"]) + SMUGGLED)
    assert [status for status, _ in found] == [200]


def test_a_partial_unload_stays_partial(server: Any) -> None:
    models = server.url + "/v2/repository/models/tiny"
    assert httpx.post(models + "/load").status_code == 200
    body = b'{"parameters": {"variants": ["other"]}}'
    framing = [f"Content-Length: {len(body)}"], body
    path = "/v2/repository/models/tiny/unload"
    found = exchange(server, post(H2C, framing, path) + LAST)
    assert json.loads(found[0][1])["versions"] == ["other"], found
    loaded = httpx.get(server.url + "/metrics").text.splitlines()
    assert 'slimq_variant_loaded{policy="tiny",variant="fp32"} 1.0' in loaded
    assert 'slimq_variant_loaded{policy="tiny",variant="other"} 0.0' in loaded


def test_a_client_that_waits_for_100_continue_is_told_to_go_on(server: Any) -> None:
    head, _, body = post([*H2C, "Expect: 100-continue"]).partition(b"\r\n\r\n")
    with server.connect() as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body + LAST)
        found = answers(receive_all(connection))
    assert [status for status, _ in found] == [200, 200]


@pytest.mark.parametrize("step", [None, 1], ids=["whole", "bytes"])
@pytest.mark.parametrize("target", ["test:80", "/healthz", ACT])
def test_connect_is_refused_once_and_ends_the_connection(
    server: Any, target: str, step: int | None
) -> None:
    content = f"CONNECT {target} HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc".encode()
    ((status, body),) = exchange(server, content + SMUGGLED, step)
    problem = json.loads(body)
    assert (status, problem["code"]) == (400, "malformed-request")
    assert (problem["field"], problem["received"]) == ("method", "CONNECT")


def test_http_2_with_prior_knowledge_is_refused(server: Any) -> None:
    ((status, body),) = exchange(server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(30))
    assert (status, json.loads(body)["code"]) == (400, "malformed-request")


KEY = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
VERSION = "Sec-WebSocket-Version: 13"
TEXT = bytes([0x81, 0x80 + 1, 0, 0, 0, 0]) + b"x"
"""A frame with a message that is no observation."""


def handshake(*headers: str, path: str = "/v1/policies/tiny/stream", method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: test", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("upgrade", "connection"),
    [("websocket", "Upgrade"), ("WebSocket", "keep-alive, upgrade"), ("h2c, websocket", "upgrade")],
)
@pytest.mark.parametrize("step", [None, 1])
def test_a_websocket_opens(server: Any, upgrade: str, connection: str, step: int | None) -> None:
    content = handshake(f"Upgrade: {upgrade}", f"Connection: {connection}", KEY, VERSION)
    with server.connect() as client:
        for start in range(0, len(content), step or len(content)):
            client.sendall(content[start : start + (step or len(content))])
        client.settimeout(10)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += client.recv(1000)
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        client.sendall(TEXT)
        assert b'"code"' in client.recv(1000)


def test_frames_that_come_with_the_handshake_are_read_after_it(server: Any) -> None:
    content = handshake("Upgrade: websocket", "Connection: Upgrade", KEY, VERSION)
    for pieces in ([content + TEXT], [content, TEXT], [content + TEXT[:3], TEXT[3:]]):
        with server.connect() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                client.sendall(piece)
            answer = b""
            while b'"code"' not in answer:
                answer += client.recv(1000)
        assert answer.startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize("together", [True, False])
def test_what_comes_behind_a_handshake_is_no_request(server: Any, together: bool) -> None:
    for path in ("/v1/policies/tiny/stream", "/v1/policies/none/stream", "/none"):
        content = handshake("Upgrade: websocket", "Connection: Upgrade", KEY, VERSION, path=path)
        with server.connect() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in [content + SMUGGLED] if together else [content, SMUGGLED]:
                client.sendall(piece)
            answer = receive_all(client)
        assert answer.count(b"HTTP/1.1 ") == 1, answer
        assert answer.startswith(
            b"HTTP/1.1 101 " if path.startswith("/v1/policies/tiny") else b"HTTP/1.1 404 "
        )
    assert "Traceback" not in server.log.read_text()


MALFORMED = {
    "no key": ([VERSION], "Sec-WebSocket-Key"),
    "a short key": (["Sec-WebSocket-Key: AAAA", VERSION], "Sec-WebSocket-Key"),
    "no base64": (["Sec-WebSocket-Key: ?", VERSION], "Sec-WebSocket-Key"),
    "two keys": ([KEY, KEY, VERSION], "Sec-WebSocket-Key"),
    "no version": ([KEY], "Sec-WebSocket-Version"),
    "an old version": ([KEY, "Sec-WebSocket-Version: 8"], "Sec-WebSocket-Version"),
    "a body": ([KEY, VERSION, "Content-Length: 3"], "body"),
    "a chunked body": ([KEY, VERSION, "Transfer-Encoding: chunked"], "body"),
    "many headers": ([KEY, VERSION, *(f"X-{n}: x" for n in range(200))], "head"),
    "a long header": ([KEY, VERSION, "X-Long: " + "x" * 9000], "head"),
}


@pytest.mark.parametrize(("headers", "field"), MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("step", [None, 50])
def test_a_malformed_handshake_gets_one_error(
    server: Any, headers: list[str], field: str, step: int | None
) -> None:
    content = handshake("Upgrade: websocket", "Connection: Upgrade", *headers)
    ((status, body),) = exchange(server, content + SMUGGLED, step)
    problem = json.loads(body)
    assert (status, problem["code"], problem["field"]) == (400, "malformed-request", field)


def test_a_version_that_is_not_known_is_told_which_is(server: Any) -> None:
    content = handshake("Upgrade: websocket", "Connection: Upgrade", KEY)
    with server.connect() as client:
        client.sendall(content)
        assert b"\r\nsec-websocket-version: 13\r\n" in receive_all(client)


def test_a_handshake_behind_an_unanswered_request_is_a_plain_request(server: Any) -> None:
    content = handshake("Upgrade: websocket", "Connection: Upgrade", KEY, VERSION)
    found = exchange(server, post([]) + content + LAST)
    assert [status for status, _ in found] == [200, 426, 200]


def test_curl_that_would_rather_speak_http_2_is_answered(server: Any) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    command = ["curl", "--silent", "--show-error", "--http2", "--max-time", "20"]
    command += ["--header", "Content-Type: application/json", "--data", BODY.decode()]
    command += ["--write-out", "%{http_version} %{http_code}\n"]
    for framing in ([], ["--header", "Transfer-Encoding: chunked"]):
        urls = [server.url + ACT] * 3  # by one connection
        done = subprocess.run([*command, *framing, *urls], capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(b"1.1 200\n") == 3, done.stdout
        assert done.stdout.count(b'"actions"') == 3


JAVA = """
import java.net.URI;
import java.net.http.*;

class Ask {
    public static void main(String[] arguments) throws Exception {
        var client = HttpClient.newHttpClient();
        for (int i = 0; i < 3; i++) {
            var publisher = i == 1
                ? HttpRequest.BodyPublishers.ofInputStream(() ->
                    new java.io.ByteArrayInputStream(arguments[1].getBytes()))
                : HttpRequest.BodyPublishers.ofString(arguments[1]);
            var request = HttpRequest.newBuilder(URI.create(arguments[0]))
                .header("Content-Type", "application/json").POST(publisher).build();
            var answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.body());
        }
    }
}
"""


def test_javas_own_client_is_answered(server: Any, tmp_path: Path) -> None:
    """By default it asks for h2c with its first request, be it sized or chunked."""
    if shutil.which("java") is None:
        pytest.skip("there is no Java")
    program = tmp_path / "Ask.java"
    program.write_text(JAVA)
    command = ["java", "-Xmx64m", str(program), server.url + ACT, BODY.decode()]
    done = subprocess.run(command, capture_output=True, timeout=120)
    if b"jdk.compiler" in done.stderr:
        pytest.skip("there is a Java that runs no source")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert [line[:15] for line in lines] == ['200 {"policy":"'] * 3, lines
