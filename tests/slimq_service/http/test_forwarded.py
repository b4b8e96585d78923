from __future__ import annotations

from typing import Any

import pytest

from slimq_service.http.forwarded import Proxies

UNIX = "unix"
LOCAL = ("127.0.0.1", "::1", "unix")


def scope(headers: dict[str, str], client: Any = ("127.0.0.1", 4711), **more: Any) -> Any:
    encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"headers": encoded, "client": client, "server": ("127.0.0.1", 8000), **more}


def url(headers: dict[str, str], trusted: Any = LOCAL, root_path: str = "", **more: Any) -> str:
    return str(Proxies(trusted, root_path).url(scope({"host": "inner:8000", **headers}, **more)))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, "http://inner:8000"),
        ({"host": "[::1]:8000"}, "http://[::1]:8000"),
        ({"host": "'; rm -rf"}, "http://127.0.0.1:8000"),
        ({"x-forwarded-proto": "https"}, "https://inner:8000"),
        ({"x-forwarded-proto": "HTTPS"}, "https://inner:8000"),
        ({"x-forwarded-proto": "javascript"}, "http://inner:8000"),
        ({"x-forwarded-host": "slimq.example"}, "http://slimq.example"),
        ({"x-forwarded-host": "evil.example, slimq.example"}, "http://slimq.example"),
        ({"x-forwarded-host": "<script>"}, "http://inner:8000"),
        ({"x-forwarded-prefix": "/slimq"}, "http://inner:8000/slimq"),
        ({"x-forwarded-prefix": "/slimq/"}, "http://inner:8000/slimq"),
        ({"x-forwarded-prefix": "/evil, /a/b"}, "http://inner:8000/a/b"),
        ({"x-forwarded-prefix": "//evil.example"}, "http://inner:8000"),
        ({"x-forwarded-prefix": "/a/../b"}, "http://inner:8000"),
        ({"x-forwarded-prefix": "/\"onclick='"}, "http://inner:8000"),
        ({"x-forwarded-prefix": "slimq"}, "http://inner:8000"),
        ({"forwarded": "proto=https;host=slimq.example"}, "https://slimq.example"),
        ({"forwarded": 'For="[::1]:9";Host="a:1", for=10.0.0.1;host="b:2"'}, "http://b:2"),
        ({"forwarded": "host=evil.example", "x-forwarded-for": "10.0.0.1"}, "http://inner:8000"),
        ({"forwarded": 'host="unclosed'}, "http://inner:8000"),
    ],
)
def test_the_url_is_what_the_nearest_proxy_says(headers: dict[str, str], expected: str) -> None:
    assert url(headers) == expected


def test_a_prefix_that_is_set_holds_where_no_proxy_says_another() -> None:
    assert url({}, root_path="/slimq") == "http://inner:8000/slimq"
    assert url({"x-forwarded-prefix": "/a"}, root_path="/slimq") == "http://inner:8000/a"
    untrusted = {"client": ("10.0.0.9", 1)}
    assert url({"x-forwarded-prefix": "/a"}, root_path="/s", **untrusted) == "http://inner:8000/s"


@pytest.mark.parametrize(
    ("trusted", "client", "believed"),
    [
        (LOCAL, ("127.0.0.1", 1), True),
        (LOCAL, ("::1", 1), True),
        (LOCAL, ("::ffff:127.0.0.1", 1), True),
        (LOCAL, UNIX, True),
        (LOCAL, ("", 0), False),
        (LOCAL, None, False),
        (LOCAL, ("127.0.0.2", 1), False),
        (LOCAL, ("10.0.0.9", 1), False),
        (LOCAL, ("testclient", 1), False),
        (("10.0.0.0/8", "2001:db8::/32"), ("10.9.9.9", 1), True),
        (("10.0.0.0/8", "2001:db8::/32"), ("2001:db8::7", 1), True),
        (("10.0.0.0/8", "2001:db8::/32"), ("127.0.0.1", 1), False),
        (("10.0.0.0/8",), UNIX, False),
        (("*",), None, True),
        (("*",), ("203.0.113.5", 1), True),
        ((), ("127.0.0.1", 1), False),
    ],
)
def test_only_trusted_peers_are_believed(trusted: Any, client: Any, believed: bool) -> None:
    headers = {"x-forwarded-host": "slimq.example", "x-forwarded-for": "203.0.113.9"}
    more = {"server": ("/run/slimq.sock", None), "client": None} if client == UNIX else {}
    more = {"client": client, **more}
    assert (url(headers, trusted, **more) == "http://slimq.example") is believed
    proxies, asked = Proxies(trusted), scope(headers, **more)
    assert proxies.forwarded_host(asked) == ("slimq.example" if believed else None)
    peer = client if client == UNIX else (client or ("",))[0] or "unknown"
    assert proxies.client(asked) == ("203.0.113.9" if believed else peer)


@pytest.mark.parametrize("client", [None, "", ("", 0)])
def test_over_a_unix_socket_there_is_no_address_and_a_host_only_if_one_is_said(client: Any) -> None:
    server = ("/run/slimq.sock", None)
    asked = scope({}, client, server=server)
    assert Proxies(()).client(asked) == "unix"
    assert str(Proxies(()).url(asked)) == "http://localhost"
    assert url({}, client=client, server=server) == "http://inner:8000"


@pytest.mark.parametrize(
    ("said", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("1.2.3.4, 203.0.113.9", "203.0.113.9"),
        ("1.2.3.4, 203.0.113.9, 127.0.0.1", "203.0.113.9"),
        ("127.0.0.1, ::1", "127.0.0.1"),
        ("203.0.113.9:5555", "203.0.113.9"),
        ("[2001:db8::1]:80", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("1.2.3.4, _hidden", "unknown"),
        ("x" * 999, "unknown"),
    ],
)
def test_the_client_is_the_last_that_is_no_trusted_proxy(said: str, client: str) -> None:
    assert Proxies(LOCAL).client(scope({"x-forwarded-for": said})) == client


def test_a_websockets_scheme_is_that_of_its_page() -> None:
    assert url({}, scheme="wss") == "https://inner:8000"
    assert url({}, scheme="ws") == "http://inner:8000"
