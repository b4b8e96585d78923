"""What lies around the application: layers that every request goes through, errors and all.

A middleware that FastAPI is told of would sit behind the front, which answers most requests itself,
and inside of FastAPI's handling of mistakes. These see every request and every answer. Each is only
there where a setting asks for it, but for the ids.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
from starlette.types import ASGIApp

from slimq.core.errors import MissingExtraError
from slimq_service.http.forwarded import Proxies
from slimq_service.http.peers import Peers
from slimq_service.http.request_ids import RequestIds
from slimq_service.metrics.service import Metrics
from slimq_service.middleware.access_log import AccessLog
from slimq_service.middleware.admin_port import Ports
from slimq_service.middleware.auth import Guard, Keys
from slimq_service.middleware.cors import Cors
from slimq_service.middleware.cross_site import CrossSite
from slimq_service.middleware.head import Head
from slimq_service.middleware.root_path import RootPath
from slimq_service.settings import Settings


def surround_routes(app: ASGIApp, settings: Settings, peers: Peers, metrics: Metrics) -> ASGIApp:
    """The application's routes with the layers that requests for actions need not pass."""
    return CrossSite(Head(app), settings, peers, metrics.http_error)


def surround(
    app: ASGIApp,
    settings: Settings,
    peers: Peers,
    metrics: Metrics,
    keys: Keys,
    make_id: Callable[[], str],
    provider: Any,
) -> ASGIApp:
    """The application with its layers around it.

    Args:
        app: what answers.
        settings: which layers there are.
        peers: the other workers, whose requests were let through by those.
        metrics: where refusals are counted.
        keys: what the guard asks for.
        make_id: makes ids for requests.
        provider: of spans, from `trace_provider`.
    """
    if keys:
        app = Guard(app, keys, peers, metrics.http_error)
    if settings.admin_port is not None:
        app = Ports(app, settings.admin_port, peers, metrics.http_error)
    if settings.cors_origins:
        app = Cors(app, settings.cors_origins, metrics.http_error)
    if settings.root_path:
        app = RootPath(app, settings.root_path)
    if provider is not None:
        from slimq_service.middleware.tracing import Tracing

        app = Tracing(app, provider)
    if settings.access_log:
        app = AccessLog(app, Proxies(settings.forwarded_allow_ips))
    return RequestIds(app, make_id)


def trace_provider(settings: Settings) -> Any:
    """What makes spans, None where none are asked for.

    Raises:
        MissingExtraError: OpenTelemetry is not installed.
    """
    if not settings.traces:
        return None
    try:
        from slimq_service.middleware.tracing import make_provider
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "otel") from error
    return make_provider()


def count_refused(metrics: Metrics, make_id: Callable[[], str], code: str) -> str:
    """Counts what is refused before it is a request; answers the id to name it by."""
    metrics.http_error(code)
    request_id = make_id()
    structlog.get_logger(component="wire").debug("refused", code=code, request_id=request_id)
    return request_id
