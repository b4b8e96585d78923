"""Puts the service together. Nothing happens at import."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import structlog
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from slimq import __version__
from slimq.core.errors import MissingExtraError, RepositoryError
from slimq.core.repository import Repository
from slimq_service.access import AccessLog
from slimq_service.act import ActEndpoint
from slimq_service.batching import BatchLimits
from slimq_service.catalogue import Catalogue
from slimq_service.compare import CompareEndpoint
from slimq_service.engine import Engine
from slimq_service.guard import Guard, Keys, describe, read_keys
from slimq_service.handlers import add_error_handlers
from slimq_service.health import make_health_router
from slimq_service.hot import Hot
from slimq_service.metrics import Metrics
from slimq_service.oip.control import make_control_router
from slimq_service.oip.infer import InferEndpoint
from slimq_service.oip.router import Models, make_protocol_router
from slimq_service.openapi import add_openapi
from slimq_service.outer import Layer, LayeredFastAPI
from slimq_service.page import make_page_router
from slimq_service.ports import Ports
from slimq_service.request_ids import RequestIds, id_maker
from slimq_service.resources import make_resource_router
from slimq_service.settings import Settings
from slimq_service.shadow import Shadow

DESCRIPTION = """Observations in, actions and Q-values out, from any variant of a policy.

The variant is chosen for each request: by path, by the body's `variant`, by `?variant=`, or else it
is the policy's default. Every error is a problem document (RFC 9457) with a stable `code`.

Under `/v2` is the Open Inference Protocol, where a policy is a model and a variant a version."""


def create_app(settings: Settings, registry: CollectorRegistry | None = None) -> FastAPI:
    """The application.

    Args:
        settings: everything it can be told.
        registry: where its metrics go; a fresh one with process metrics when None.

    Raises:
        ConfigError: a file that a setting names cannot be read, or does not hold a key.
        MissingExtraError: traces are asked for, and OpenTelemetry is not installed.
    """
    keys, make_id = read_keys(settings), id_maker()
    provider = _make_provider() if settings.traces else None
    metrics = Metrics(_make_registry() if registry is None else registry)
    catalogue = Catalogue(
        Repository(settings.policies, settings.max_model_bytes),
        metrics,
        settings.retry_seconds,
        settings.batch_observations,
        settings.memory_budget_bytes,
        settings.pinned_keys(),
    )
    limits = BatchLimits(
        settings.batch_observations,
        settings.queue_requests,
        settings.queue_seconds,
        settings.queue_bytes,
    )
    engine = Engine(settings.inline_seconds, settings.inference_threads, limits, metrics)

    shadow = Shadow(catalogue, metrics.registry, engine.busy, settings.batch_observations)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001
        with contextlib.suppress(RepositoryError):  # named by /readyz, and looked at again
            await catalogue.refresh()
        background = [
            asyncio.create_task(catalogue.watch(settings.watch_seconds)),
            asyncio.create_task(shadow.run()),
        ]
        try:
            yield
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await catalogue.close()
            engine.close()
            shadow.close()
            if provider is not None:
                await asyncio.to_thread(provider.shutdown)

    app = LayeredFastAPI(
        layers=make_layers(settings, keys, metrics, make_id, provider),
        title="slimq",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
    )
    app.state.catalogue, app.state.shadow, app.state.metrics = catalogue, shadow, metrics
    app.state.refused = partial(_count_refused, metrics, make_id)
    hot = Hot(settings, catalogue, engine, shadow, metrics)
    models = Models(catalogue, hot.statistics, settings.max_batch)
    app.router.routes.extend(ActEndpoint(hot).routes())
    app.router.routes.extend(CompareEndpoint(hot).routes())
    app.router.routes.extend(InferEndpoint(hot).routes())
    app.include_router(make_protocol_router(catalogue, models))
    app.include_router(make_control_router(catalogue, settings))
    app.include_router(make_page_router(catalogue))
    app.include_router(make_resource_router(catalogue))
    app.include_router(make_health_router(catalogue, metrics))
    add_error_handlers(app, metrics)
    add_openapi(app, partial(describe, keys=keys))
    return app


def make_layers(
    settings: Settings,
    keys: Keys,
    metrics: Metrics,
    make_id: Callable[[], str],
    provider: Any,
) -> tuple[Layer, ...]:
    """What lies around the application, the outermost first."""
    layers: list[Layer] = [partial(RequestIds, make=make_id)]
    if settings.access_log:
        layers.append(AccessLog)
    if provider is not None:
        from slimq_service.tracing import Tracing

        layers.append(partial(Tracing, provider=provider))
    if settings.admin_port is not None:
        layers.append(partial(Ports, admin_port=settings.admin_port, count=metrics.http_error))
    if keys:
        layers.append(partial(Guard, keys=keys, count=metrics.http_error))
    return tuple(layers)


def _make_provider() -> Any:
    try:
        from slimq_service.tracing import make_provider
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "otel") from error
    return make_provider()


def _make_registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


def _count_refused(metrics: Metrics, make_id: Callable[[], str], code: str) -> str:
    """Counts what is refused before it is a request; answers the id to name it by."""
    metrics.http_error(code)
    request_id = make_id()
    structlog.get_logger(component="wire").debug("refused", code=code, request_id=request_id)
    return request_id
