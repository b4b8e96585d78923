from __future__ import annotations

import pytest

from slimq_service.server.uvicorn_adapter.target import split_target


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/", (b"/", b"")),
        (b"/a/b?c=d?e", (b"/a/b", b"c=d?e")),
        (b"/a?", (b"/a", b"")),
        (b"/a#b", (b"/a", b"")),
        (b"/a?b#c", (b"/a", b"b")),
        (b"http://host:80/a?b", (b"/a", b"b")),
        (b"//a/b", (b"//a/b", b"")),
    ],
)
def test_path_and_query_of_a_target(target: bytes, expected: tuple[bytes, bytes]) -> None:
    assert split_target(target) == expected
