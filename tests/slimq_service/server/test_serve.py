from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from slimq.core.errors import MissingExtraError
from slimq_service.server.serve import check_grpc, grpc_address
from slimq_service.settings import Settings


def test_without_grpc_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    check_grpc()
    find = importlib.util.find_spec

    def find_spec(name: str, *rest: Any) -> Any:
        return None if name == "grpc_health" else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(MissingExtraError) as caught:
        check_grpc()
    assert str(caught.value) == "grpc_health is not installed: pip install 'slimq[grpc]'"


def test_the_address_of_grpc_is_numeric() -> None:
    assert grpc_address(Settings(grpc_port=9000)) == "127.0.0.1:9000"
    assert grpc_address(Settings(host="::1", grpc_port=9000)) == "[::1]:9000"
    assert grpc_address(Settings()) is None
