from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

READY, READABLE = "slimq_ready", "slimq_repository_readable"
MISSING = "pinned variant is not in the repository"


def told(service: Any) -> tuple[float, float]:
    return service.metric(READY), service.metric(READABLE)


def test_a_service_that_can_answer_is_ready_without_a_request_to_readyz(service: Any) -> None:
    assert told(service) == (1, 1)
    assert service.get("/readyz").status_code == 200


def test_a_service_that_is_ending_is_not_ready(service: Any) -> None:
    service.app.lifecycle.draining = True
    assert told(service) == (0, 1)
    assert service.get("/readyz").status_code == 503


def test_a_repository_without_a_variant_makes_nothing_ready(start: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    service = start(tmp_path / "empty")
    assert told(service) == (0, 1)
    assert service.get("/readyz").status_code == 503


def test_a_repository_that_is_not_there_is_not_readable(start: Any, tmp_path: Path) -> None:
    service = start(tmp_path / "none")
    assert told(service) == (0, 0)
    assert service.get("/readyz").status_code == 503


def test_a_repository_that_goes_is_not_readable_while_memory_answers(
    start: Any, repositories: Any
) -> None:
    service = start(watch_seconds=0.02)
    assert service.act("tiny", [[0, 0, 0, 0]]).status_code == 200
    kept = repositories.root.rename(repositories.root.with_name("elsewhere"))
    service.until(lambda: told(service) == (1, 0))
    assert service.get("/readyz").status_code == 200
    kept.rename(repositories.root)
    service.until(lambda: told(service) == (1, 1))


def test_variants_that_are_all_broken_make_nothing_ready(start: Any, repositories: Any) -> None:
    shutil.rmtree(repositories.root / "tiny_frames")
    for path in (repositories.root / "tiny" / "variants").iterdir():
        repositories.corrupt("tiny", path.name)
    service = start()
    assert told(service) == (0, 1)
    assert service.get("/readyz").status_code == 503


@pytest.mark.parametrize("name", ["tiny/none", "none/fp32"])
def test_a_pinned_variant_that_is_not_there_is_named_in_the_log_once(start: Any, name: str) -> None:
    with capture_logs() as logs:
        service = start(pinned=(name,))
        assert told(service) == (0, 1)
        assert told(service) == (0, 1)
    policy, _, variant = name.partition("/")
    named = [line for line in logs if line["event"] == MISSING]
    assert [(line["policy"], line["variant"]) for line in named] == [(policy, variant)]
    assert service.get("/readyz").status_code == 503


def test_a_pinned_variant_that_goes_is_named_when_it_has_gone(
    start: Any, repositories: Any
) -> None:
    service = start(pinned=("tiny/other",), watch_seconds=0.02)
    service.until(lambda: told(service) == (1, 1))
    with capture_logs() as logs:
        shutil.rmtree(repositories.folder("tiny", "other"))
        service.until(lambda: told(service) == (0, 1))
    assert [line["variant"] for line in logs if line["event"] == MISSING] == ["other"]


def test_a_repository_that_cannot_be_read_says_nothing_of_what_is_pinned(
    start: Any, tmp_path: Path
) -> None:
    with capture_logs() as logs:
        assert told(start(tmp_path / "none", pinned=("tiny/fp32",))) == (0, 0)
    assert MISSING not in {line["event"] for line in logs}


def test_both_count_the_workers_whichever_is_scraped(launch_once: Any) -> None:
    server = launch_once(SLIMQ_WORKERS="2", SLIMQ_PINNED="tiny/fp32")
    wanted, rows, deadline = [f"{READY} 2.0", f"{READABLE} 2.0"], [], time.monotonic() + 30
    while wanted != [row for row in rows if row.startswith((READY, READABLE))]:
        assert time.monotonic() < deadline, rows
        time.sleep(0.05)
        rows = httpx.get(server.url + "/metrics").text.splitlines()
