"""Traces by OpenTelemetry: a span for each request, and within it where its time went.

Only imported where the setting asks for it; it needs the extra `otel`. Where spans go, and how many
of them, is told by OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`,
`OTEL_TRACES_SAMPLER`, …). A caller's trace goes on here (W3C `traceparent`).
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
from slimq_service.http.request_ids import CURRENT, STARTS
from slimq_service.middleware.access_log import shown_path
from slimq_service.requests.call import CALL, Call

SERVICE = "slimq"
NAMES = (3, 5)
"""Where the paths of hot endpoints name a policy and a variant."""
CONTEXT_HEADERS = frozenset((b"traceparent", b"tracestate"))


def make_exporter() -> SpanExporter:
    """What sends spans, as OpenTelemetry's variables have it."""
    return OTLPSpanExporter()


def make_provider() -> TracerProvider:
    """What makes spans and has them sent; to be shut down in the end, which sends what waits."""
    attributes = {"service.version": __version__}
    named = "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if not named and "OTEL_SERVICE_NAME" not in os.environ:
        attributes["service.name"] = SERVICE
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(make_exporter()))
    return provider


class Tracing:
    """An ASGI layer that makes the spans of HTTP requests."""

    def __init__(self, app: ASGIApp, provider: TracerProvider) -> None:
        self._app = app
        self._tracer = provider.get_tracer(SERVICE, __version__)
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands on, and ends the span once the answer is made."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # The clock that spans are told in may be set; what lies within is measured by the other.
        offset = time.time_ns() - time.perf_counter_ns()
        span = self._tracer.start_span(
            scope["method"], self._parent(scope["headers"]), SpanKind.SERVER
        )
        status = 0

        def watch(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] in STARTS:
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
    """Names a span after its route, so that there are few names, and says what came of it."""
    route = route_of(scope)
    if route is not None:
        span.update_name(f"{scope['method']} {route}")
        span.set_attribute("http.route", route)
    call: Call | None = scope.get(CALL)
    known: dict[str, Any] = {
        "http.request.method": scope["method"],
        "url.path": shown_path(scope),
        "http.response.status_code": status or None,
        "slimq.request_id": CURRENT.get(),
        "slimq.policy": call and call.policy,
        "slimq.variant": call and call.variant,
        "slimq.observations": call and len(call.actions),
    }
    span.set_attributes({name: value for name, value in known.items() if value is not None})
    if status >= 500:
        span.set_status(StatusCode.ERROR)


def add_stages(tracer: Tracer, within: Context, call: Call, offset: int) -> None:
    """The stages of a request for actions, one after the other from its whole body on.

    They are measured as durations: where one ended and the next began is not known to the
    microsecond.
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
    """The path with names in place of values, None for one that is not there."""
    if CALL not in scope:  # the front routes hot endpoints itself
        return getattr(scope.get("route"), "path", None)
    parts = scope["path"].split("/")
    for place, name in zip(NAMES, scope["path_params"], strict=False):
        parts[place] = f"{{{name}}}"
    return "/".join(parts)
