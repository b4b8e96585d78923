from __future__ import annotations

import pytest

from slimq_service.http.sites import (
    is_address,
    is_among,
    is_localhost,
    is_loopback,
    is_same_host,
    name_of,
)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("Slimq.Example", "slimq.example"),
        ("slimq.example:8000", "slimq.example"),
        ("127.0.0.1:8000", "127.0.0.1"),
        ("[::1]:8000", "[::1]"),
        ("[::1]", "[::1]"),
        ("", ""),
    ],
)
def test_a_host_has_a_name_and_perhaps_a_port(host: str, name: str) -> None:
    assert name_of(host) == name


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("https://slimq.example", "slimq.example"),
        ("https://slimq.example", "slimq.example:443"),
        ("http://slimq.example:80", "SLIMQ.example"),
        ("https://slimq.example:8443", "slimq.example:8443"),
        ("http://[::1]:8000", "[::1]:8000"),
    ],
)
def test_an_origin_is_of_the_host_that_it_names(origin: str, host: str) -> None:
    assert is_same_host(origin, host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("null", "null"),
        ("", ""),
        ("http://", ""),
        ("https://evil.example", "slimq.example"),
        ("https://slimq.example.evil.example", "slimq.example"),
        ("https://slimq.example", "slimq.example:80"),
        ("http://127.0.0.1:8001", "127.0.0.1:8000"),
        ("http://localhost:8000", "127.0.0.1:8000"),
        ("https://slimq.example/", "slimq.example"),
        ("https://user@slimq.example", "slimq.example"),
    ],
)
def test_another_host_or_port_is_another_site(origin: str, host: str) -> None:
    assert not is_same_host(origin, host)


def test_addresses_and_localhost_need_no_dns() -> None:
    for name in ("127.0.0.1", "10.0.0.7", "[::1]", "[2001:db8::1]"):
        assert is_address(name)
    for name in ("localhost", "127.0.0.1.example", "0x7f000001", "1", "", "[::1", "a.localhost"):
        assert is_address(name) is (name == "[::1")
    assert is_localhost("localhost")
    assert is_localhost("slimq.localhost")
    assert not is_localhost("localhost.example")
    assert not is_localhost("evil-localhost")


def test_loopback_is_what_no_other_machine_reaches() -> None:
    for name in ("localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]"):
        assert is_loopback(name)
    for name in ("0.0.0.0", "::", "10.0.0.7", "slimq.example", ""):
        assert not is_loopback(name)


def test_names_are_allowed_one_by_one_or_all_below_one() -> None:
    allowed = ("slimq.example", "*.lab.example")
    assert is_among("slimq.example", allowed)
    assert is_among("a.lab.example", allowed)
    for name in ("a.slimq.example", "lab.example", "evil-lab.example", "", "*"):
        assert not is_among(name, allowed)
    assert is_among("anything", ("*",))
