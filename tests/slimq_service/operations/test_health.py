from __future__ import annotations

import shutil
from typing import Any

from prometheus_client.parser import text_string_to_metric_families


def test_the_process_is_alive_whatever_the_repository(start: Any, repositories: Any) -> None:
    service = start()
    shutil.rmtree(repositories.root)
    assert service.get("/healthz").json() == {"alive": True}
    assert service.request("HEAD", "/healthz").status_code == 200


def test_ready_lists_every_variant_with_its_state(service: Any) -> None:
    service.act("tiny", [[0, 0, 0, 0]])
    answer = service.get("/readyz")
    assert answer.status_code == 200
    detail = answer.json()
    assert detail["ready"] is True
    states = {(v["policy"], v["variant"]): v["state"] for v in detail["variants"]}
    assert states[("tiny", "fp32")] == "loaded"
    assert states[("tiny", "other")] == "available"
    assert len(states) == 4


def test_nothing_to_serve_is_not_ready_and_says_why(start: Any, repositories: Any) -> None:
    for policy in ("tiny", "tiny_frames"):
        shutil.rmtree(repositories.root / policy)
    answer = start().get("/readyz")
    assert answer.status_code == 503
    assert "holds no variants" in answer.json()["problem"]


def test_a_repository_that_is_gone_is_named_once(service: Any, repositories: Any) -> None:
    shutil.rmtree(repositories.root)
    answer = service.act("nope", [[0, 0, 0, 0]])
    assert answer.status_code == 503
    assert answer.json()["detail"].startswith(f"{repositories.root}: cannot be listed: No such")


def test_metrics_are_prometheus_text_whatever_is_asked_for(service: Any) -> None:
    accept = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.1"}
    plain = service.get("/metrics", headers=accept)
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert list(text_string_to_metric_families(plain.text))
    assert "slimq_info{" in plain.text
    assert "process_resident_memory_bytes" in plain.text
    assert "_created" not in plain.text
