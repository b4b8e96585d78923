from __future__ import annotations

import pytest

from slimq_service.http.accept import prefers_json


@pytest.mark.parametrize(
    ("accept", "json_wanted"),
    [
        ("*/*", False),
        ("application/json", True),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("application/json;q=0.5, text/html", False),
        ("text/html;q=0.1, application/*", True),
        ("", False),
        ("application/json;q=x", False),
    ],
)
def test_json_is_returned_if_preferred(accept: str, json_wanted: bool) -> None:
    assert prefers_json(accept) is json_wanted
