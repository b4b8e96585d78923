from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from slimq_service.server import make_config
from slimq_service.settings import Settings
from slimq_service.wire import RESERVED_FILES, allow_connections

resource = pytest.importorskip("resource")


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets a test choose the limits on open files; they are what `set` has left them at."""
    kept = {"limits": (0, 0)}

    def choose(soft: int, hard: int) -> dict[str, Any]:
        kept["limits"] = (soft, hard)
        return kept

    monkeypatch.setattr(resource, "getrlimit", lambda _: kept["limits"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: kept.update(limits=limits))
    return choose


@pytest.mark.parametrize(
    ("soft", "hard", "allowed", "left"),
    [
        (50_000, 60_000, 1000, 50_000),
        (256, 60_000, 1000, 1000 + RESERVED_FILES),
        (256, resource.RLIM_INFINITY, 1000, 1000 + RESERVED_FILES),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 1000, resource.RLIM_INFINITY),
        (256, 1024, 1024 - RESERVED_FILES, 1024),
        (64, 64, 1, 64),
    ],
)
def test_as_many_connections_are_allowed_as_files_can_be_opened(
    files: Any, soft: int, hard: int, allowed: int, left: int
) -> None:
    kept = files(soft, hard)
    with capture_logs() as logs:
        assert allow_connections(1000) == allowed
    assert kept["limits"] == (left, hard)
    assert [log["allowed"] for log in logs] == ([] if allowed == 1000 else [allowed])


def test_without_httptools_the_slower_parser_has_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "httptools" else find(name)
    )
    config = make_config(lambda: None, Settings(max_header_bytes=1234), [].append)
    config.load()
    assert config.http_protocol_class.__name__ == "H11Protocol"
    assert config.h11_max_incomplete_event_size == 1234


def test_its_own_limit_is_in_place_on_the_wire(launch_once: Any) -> None:
    """A process that may open few files says so, and serves."""
    server = launch_once(SLIMQ_MAX_CONNECTIONS="1000000")
    logs = [json.loads(line) for line in server.log.read_text().splitlines()]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fewer = [log for log in logs if log["event"] == "fewer connections than wanted"]
    assert bool(fewer) == (hard != resource.RLIM_INFINITY and hard < 1_000_000 + RESERVED_FILES)
