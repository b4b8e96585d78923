from __future__ import annotations

from typing import Any

import pytest

from slimq_service.grpc.bridge import PUSHBACK, Exchange, client_of, escape


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("ipv4:127.0.0.1:50000", ("127.0.0.1", 50000)),
        ("ipv6:%5B::1%5D:50000", ("::1", 50000)),
        ("ipv6:[::1]:50000", ("::1", 50000)),
        ("unix:/run/socket", None),
        ("unknown", None),
    ],
)
def test_the_client_is_the_peer(peer: str, client: Any) -> None:
    assert client_of(peer) == client


def test_a_name_is_one_segment() -> None:
    assert escape("a/../b") == "a%2F..%2Fb"


def test_a_client_is_told_when_to_try_again() -> None:
    exchange = Exchange(b"")
    exchange.status = 503
    exchange.headers = [(b"x-request-id", b"7"), (b"retry-after", b"2"), (b"other", b"")]
    exchange._chunks = [b'{"error": "full"}']
    failure = exchange.failure()
    assert (failure.status, failure.text) == (503, "full")
    assert failure.metadata == (("x-request-id", "7"), (PUSHBACK, "2000"))
