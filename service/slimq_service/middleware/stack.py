"""The middleware stack of the application.

Middleware added to FastAPI would be inside its error handling and `Dispatch`, which handles
most requests itself. This stack is outside, and sees every request and response, errors included.
Except for request ids, middleware is only installed if the settings ask for it.
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
from slimq_service.middleware.admin_port import PortFilter
from slimq_service.middleware.auth import Guard, Keys
from slimq_service.middleware.cors import Cors
from slimq_service.middleware.cross_site import CrossSite
from slimq_service.middleware.head import Head
from slimq_service.middleware.root_path import RootPath
from slimq_service.middleware.server_options import ServerOptions
from slimq_service.settings import Settings


def wrap_routes(app: ASGIApp, settings: Settings, peers: Peers, metrics: Metrics) -> ASGIApp:
    """Wraps the routes in the middleware that requests for actions bypass."""
    return CrossSite(ServerOptions(Head(app)), settings, peers, metrics.http_error)


def wrap(
    app: ASGIApp,
    settings: Settings,
    peers: Peers,
    metrics: Metrics,
    keys: Keys,
    make_id: Callable[[], str],
    provider: Any,
) -> ASGIApp:
    """Wraps the application in the middleware stack.

    Args:
        app: the application.
        settings: determine the middleware.
        peers: the other workers, whose requests were authenticated there.
        metrics: count rejections.
        keys: required by `Guard`.
        make_id: generates request ids.
        provider: of spans, from `trace_provider`.
    """
    if keys:
        app = Guard(app, keys, peers, metrics.http_error)
    if settings.admin_port is not None:
        app = PortFilter(app, settings.admin_port, peers, metrics.http_error)
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
    """The provider of spans, None if tracing is disabled.

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
    """Counts an error that precedes a request, and returns a request id for it."""
    metrics.http_error(code)
    request_id = make_id()
    structlog.get_logger(component="wire").debug("refused", code=code, request_id=request_id)
    return request_id
