from __future__ import annotations

import importlib.util

import pytest

from slimq_service.server.run import make_config
from slimq_service.settings import Settings


def test_without_httptools_the_slower_parser_has_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "httptools" else find(name)
    )
    config = make_config(lambda: None, Settings(max_header_bytes=1234), str)
    config.load()
    assert config.http_protocol_class.__name__ == "H11Protocol"
    assert config.h11_max_incomplete_event_size == 1234
