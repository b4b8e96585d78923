from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from slimq.core.errors import MissingExtraError
from slimq_service.app import create_app
from slimq_service.middleware import tracing
from slimq_service.settings import Settings

ACT = "/v1/policies/tiny/act"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STAGES = ["parse", "queue", "inference", "respond"]


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Keeps what would be sent."""
    kept = InMemorySpanExporter()
    monkeypatch.setattr("slimq_service.middleware.tracing.make_exporter", lambda: kept)
    return kept


@pytest.fixture
def traced(start: Any, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`traced(**settings)`: the service, and what it has sent once it is flushed."""

    providers: list[Any] = []
    make = tracing.make_provider

    def make_provider() -> Any:
        providers.append(make())
        return providers[-1]

    monkeypatch.setattr(tracing, "make_provider", make_provider)

    def begin(**settings: Any) -> tuple[Any, Any]:
        service = start(traces=True, **settings)

        def sent() -> dict[str, Any]:
            assert providers[-1].force_flush()
            return {span.name: span for span in exporter.get_finished_spans()}

        return service, sent

    return begin


@pytest.mark.parametrize("inline_seconds", [0.0, 1.0])
def test_a_request_for_actions_has_a_span_with_its_stages(
    traced: Any, inline_seconds: float
) -> None:
    service, sent = traced(inline_seconds=inline_seconds, alone_seconds=0.0)
    headers = {"x-request-id": "mine"}
    assert service.act("tiny", [[0] * 4] * 3, headers=headers).status_code == 200
    spans = sent()
    root = spans["POST /v1/policies/{policy}/act"]
    assert root.parent is None
    assert root.kind.name == "SERVER"
    assert dict(root.attributes) == {
        "http.route": "/v1/policies/{policy}/act",
        "http.request.method": "POST",
        "url.path": ACT,
        "http.response.status_code": 200,
        "slimq.request_id": "mine",
        "slimq.policy": "tiny",
        "slimq.variant": "fp32",
        "slimq.observations": 3,
    }
    assert root.resource.attributes["service.name"] == "slimq"
    stages = [spans[name] for name in STAGES if name in spans]
    assert {"parse", "inference", "respond"} <= {span.name for span in stages}
    assert ("queue" in spans) == (inline_seconds == 0.0)
    end = root.start_time
    for span in stages:
        assert span.parent.span_id == root.context.span_id
        assert end <= span.start_time < span.end_time <= root.end_time
        end = span.end_time


def test_a_callers_trace_goes_on(traced: Any) -> None:
    service, sent = traced()
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=b"}
    service.act("tiny", [[0] * 4], headers=headers)
    for span in sent().values():
        assert f"{span.context.trace_id:032x}" == TRACE
    root = sent()["POST /v1/policies/{policy}/act"]
    assert f"{root.parent.span_id:016x}" == PARENT
    assert root.context.trace_state.get("a") == "b"


def test_what_a_caller_does_not_sample_is_not_sent(traced: Any) -> None:
    service, sent = traced()
    service.act("tiny", [[0] * 4], headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    assert sent() == {}


@pytest.mark.parametrize("header", ["", "junk", "00-0-0-01", "é", f"00-{TRACE}-{PARENT}-01-x"])
def test_a_context_that_is_none_begins_a_trace(traced: Any, header: str) -> None:
    service, sent = traced()
    service.get("/healthz", headers=[(b"traceparent", header.encode("latin-1"))])
    assert sent()["GET /healthz"].parent is None


def test_errors_are_seen_and_paths_that_are_not_there_share_a_name(
    traced: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("slimq_service.api.v1.policies.list_policies", fail)
    service, sent = traced(admin_key="key")
    service.get("/v1/policies")
    service.get("/nothing/here%0A")
    service.request("POST", "/v2/repository/models/tiny/load")
    service.request("POST", "/v1/policies/tiny/variants/fp32/act")
    service.request("POST", "/v1/policies/policies/compare")
    spans = sent()
    assert set(spans) == {
        "GET /v1/policies",
        "GET",
        "POST",
        "POST /v1/policies/{policy}/variants/{variant}/act",
        "POST /v1/policies/{policy}/compare",
    }
    assert spans["GET /v1/policies"].status.status_code.name == "ERROR"
    assert spans["GET"].status.status_code.name == "UNSET"
    assert spans["GET"].attributes["http.response.status_code"] == 404
    assert spans["GET"].attributes["url.path"].isprintable()
    assert spans["POST"].attributes["http.response.status_code"] == 401


def test_what_waits_is_sent_at_the_end(
    exporter: InMemorySpanExporter, tiny_repository: Path, start: Any
) -> None:
    service = start(traces=True)
    service.get("/healthz")
    service.close()
    service.close = lambda: None
    assert [span.name for span in exporter.get_finished_spans()] == ["GET /healthz"]


@pytest.mark.parametrize("variable", ["OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"])
def test_the_variables_of_opentelemetry_hold(
    traced: Any, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    value = "pong-service" if variable == "OTEL_SERVICE_NAME" else "service.name=pong-service"
    monkeypatch.setenv(variable, value)
    service, sent = traced()
    service.get("/healthz")
    assert sent()["GET /healthz"].resource.attributes["service.name"] == "pong-service"


def test_without_the_extra_it_is_named(
    monkeypatch: pytest.MonkeyPatch, tiny_repository: Path
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "slimq_service.middleware.tracing", raising=False)
    with pytest.raises(MissingExtraError, match=r"opentelemetry.* pip install 'slimq\[otel\]'"):
        create_app(Settings(policies=tiny_repository, traces=True))


def test_nothing_of_it_is_imported_while_it_is_off(tiny_repository: Path) -> None:
    """But for OpenTelemetry's small API, which newer versions of FastAPI import."""
    code = (
        "import sys; from slimq_service.app import create_app\n"
        "from slimq_service.settings import Settings\n"
        "create_app(Settings(policies=sys.argv[1]))\n"
        "own = 'opentelemetry.sdk', 'opentelemetry.exporter', 'slimq_service.middleware.tracing'\n"
        "print([name for name in sys.modules if name.startswith(own)])"
    )
    command = [sys.executable, "-c", code, str(tiny_repository)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
