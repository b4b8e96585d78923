"""OpenTelemetry tracing: a span per request, with child spans for its stages.

Only imported if enabled; requires the extra `otel`. Export and sampling are configured by
OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER`, …). A caller's
trace is continued (W3C `traceparent`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Iterable
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slimq import __version__
from slimq_service.http.request_ids import CURRENT_ID, START_TYPES
from slimq_service.middleware.access_log import printable_path
from slimq_service.requests.call import CALL, Call

SERVICE = "slimq"
PARAMETER_POSITIONS = (3, 5)
"""Positions of policy and variant in the paths that `Dispatch` routes."""
CONTEXT_HEADERS = frozenset((b"traceparent", b"tracestate"))


def make_exporter() -> SpanExporter:
    """The exporter of spans, as configured by OpenTelemetry's variables."""
    return OTLPSpanExporter()


def make_provider() -> TracerProvider:
    """The provider of spans; its `shutdown`, to be called at the end, exports pending ones."""
    attributes = {"service.version": __version__}
    named = "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if not named and "OTEL_SERVICE_NAME" not in os.environ:
        attributes["service.name"] = SERVICE
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(make_exporter()))
    return provider


class Tracing:
    """ASGI middleware that records spans of HTTP requests."""

    def __init__(self, app: ASGIApp, provider: TracerProvider) -> None:
        self._app = app
        self._tracer = provider.get_tracer(SERVICE, __version__)
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Calls the application, and ends the span after the response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Spans are in wall-clock time, which may be adjusted; stages use the monotonic clock.
        offset = time.time_ns() - time.perf_counter_ns()
        span = self._tracer.start_span(
            scope["method"], self._parent(scope["headers"]), SpanKind.SERVER
        )
        status = 0

        def watch(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] in START_TYPES:
                status = message["status"]
            return send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            if span.is_recording():
                describe(span, scope, status)
                call = scope.get(CALL)
                if call is not None:
                    add_stages(self._tracer, set_span_in_context(span), call, offset)
            span.end()

    def _parent(self, headers: Iterable[tuple[bytes, bytes]]) -> Context:
        carrier = {n.decode(): v.decode("latin-1") for n, v in headers if n in CONTEXT_HEADERS}
        return self._propagator.extract(carrier, Context())


def describe(span: Span, scope: Scope, status: int) -> None:
    """Names a span after its route (which bounds the number of names), and sets attributes."""
    route = route_of(scope)
    if route is not None:
        span.update_name(f"{scope['method']} {route}")
        span.set_attribute("http.route", route)
    call: Call | None = scope.get(CALL)
    known: dict[str, Any] = {
        "http.request.method": scope["method"],
        "url.path": printable_path(scope),
        "http.response.status_code": status or None,
        "slimq.request_id": CURRENT_ID.get(),
        "slimq.policy": call and call.policy,
        "slimq.variant": call and call.variant,
        "slimq.observations": call and len(call.actions),
    }
    span.set_attributes({name: value for name, value in known.items() if value is not None})
    if status >= 500:
        span.set_status(StatusCode.ERROR)


def add_stages(tracer: Tracer, within: Context, call: Call, offset: int) -> None:
    """Adds spans for the stages of a request for actions, starting when its body was complete.

    Only the durations of the stages are measured, so their boundaries are approximate.
    """
    start = (call.began or call.arrived) + offset
    for name, nanoseconds in (
        ("parse", call.compute_input),
        ("queue", call.queue),
        ("inference", call.compute_infer),
        ("respond", call.compute_output),
    ):
        if nanoseconds:
            tracer.start_span(name, within, start_time=start).end(start + nanoseconds)
            start += nanoseconds


def route_of(scope: Scope) -> str | None:
    """The path template of the matched route, None if there is none."""
    if CALL not in scope:  # not routed by `Dispatch`
        return getattr(scope.get("route"), "path", None)
    parts = scope["path"].split("/")
    for place, name in zip(PARAMETER_POSITIONS, scope["path_params"], strict=False):
        parts[place] = f"{{{name}}}"
    return "/".join(parts)
