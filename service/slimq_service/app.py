"""Assembles the service. Nothing happens at import."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from slimq import __version__
from slimq.core.errors import RepositoryError
from slimq.core.onnx_policy import check_providers
from slimq.core.repository import Repository
from slimq_service.api.dispatch import Dispatch
from slimq_service.api.errors import add_error_handlers
from slimq_service.api.interface import make_interface_router
from slimq_service.api.openapi import add_openapi
from slimq_service.api.page import make_page_router
from slimq_service.api.stream.endpoint import StreamEndpoint
from slimq_service.api.v1 import act
from slimq_service.api.v1.compare import CompareEndpoint
from slimq_service.api.v1.model import make_model_router
from slimq_service.api.v1.play import make_play_router
from slimq_service.api.v1.policies import make_resource_router
from slimq_service.api.v2 import infer
from slimq_service.api.v2.metadata import Models, make_protocol_router
from slimq_service.api.v2.repository import make_control_router
from slimq_service.http.forwarded import Proxies
from slimq_service.http.peers import Peers
from slimq_service.http.request_ids import id_maker
from slimq_service.inference.arrivals import Arrivals
from slimq_service.inference.batch_limits import BatchLimits
from slimq_service.inference.engine import Engine
from slimq_service.inference.shadow import Shadow
from slimq_service.metrics.event_loop_lag import watch_lag
from slimq_service.metrics.registry import Registry
from slimq_service.metrics.service import Metrics
from slimq_service.middleware.auth import describe, read_keys
from slimq_service.middleware.stack import (
    count_refused,
    trace_provider,
    wrap,
    wrap_routes,
)
from slimq_service.operations.games import Games, Player
from slimq_service.operations.health import Lifecycle, make_health_router
from slimq_service.operations.readiness import ReadyMetrics
from slimq_service.operations.repository_metrics import RepositoryMetrics
from slimq_service.operations.scrape import Exposition
from slimq_service.requests.pipeline import Pipeline
from slimq_service.settings import PROVIDERS_SETTING, Settings
from slimq_service.variants.catalogue import Catalogue

DESCRIPTION = """Observations in, actions and Q-values out, from any variant of a policy.

A request selects the variant in its path, as `variant` in its body, or as `?variant=`; otherwise
the policy's default serves it. Every error is a problem document (RFC 9457) with a stable `code`.

`/v2` is the Open Inference Protocol, with a policy as a model and a variant as a version."""

FASTAPI_OPTIONS: dict[str, Any] = {
    "description": DESCRIPTION,
    "redirect_slashes": False,
    "openapi_url": None,
}
"""`/openapi.json` is a route of our own (`api/interface.py`)."""


@dataclass(frozen=True)
class Application:
    """The service, ready to be run by a server.

    Attributes:
        asgi: the application to serve, with its middleware.
        protect: wraps another application in the same middleware.
        routes: the FastAPI application inside; its lifespan starts and ends the background work.
        lifecycle: whether the process is draining, and the live workers.
        arrivals: requests that were read but not started.
        count_refused: counts an error that precedes a request; returns a request id.
        pipeline: handles requests for actions.
        streams: the open streams.
    """

    asgi: ASGIApp
    protect: Callable[[ASGIApp], ASGIApp]
    routes: FastAPI
    lifecycle: Lifecycle
    arrivals: Arrivals
    count_refused: Callable[[str], str]
    pipeline: Pipeline
    streams: StreamEndpoint

    @property
    def settings(self) -> Settings:
        """The settings that it was created with."""
        return self.pipeline.settings

    @property
    def catalogue(self) -> Catalogue:
        """The variants."""
        return self.pipeline.catalogue

    @property
    def metrics(self) -> Metrics:
        """The metrics."""
        return self.pipeline.metrics


def create_app(
    settings: Settings,
    registry: Registry | None = None,
    peers: Peers | None = None,
    player: Player = (),
) -> Application:
    """Creates the service.

    Args:
        settings: the settings.
        registry: where its metrics are registered; None for a new one.
        peers: the other workers, if there are any.
        player: the command of the program that plays games; empty for none.

    Raises:
        ConfigError: a key file cannot be used, or an execution provider is not available.
        MissingExtraError: traces are enabled, but OpenTelemetry is not installed.
    """
    peers = peers or Peers()
    check_providers(settings.providers, *PROVIDERS_SETTING)
    keys, make_id, provider = read_keys(settings), id_maker(), trace_provider(settings)
    metrics, arrivals = Metrics(registry or Registry()), Arrivals()
    lifecycle, catalogue = Lifecycle(peers.workers), _make_catalogue(settings, metrics)
    engine = _make_engine(settings, arrivals, metrics)
    proxies = Proxies(settings.forwarded_allow_ips, settings.root_path)
    shadow = Shadow(catalogue, metrics.registry, engine.busy, settings.batch_observations)
    pipeline = Pipeline(settings, catalogue, engine, shadow, metrics)
    streams, ready = StreamEndpoint(pipeline), ReadyMetrics(catalogue, lifecycle, metrics)
    games = Games(player, settings.policies, settings.games, lifecycle)
    repository = RepositoryMetrics(catalogue)
    exposition = Exposition(metrics.registry, repository, peers.table, shadow.add_series)
    lifespan = _make_lifespan(settings, catalogue, engine, shadow, ready, provider)
    app = FastAPI(title="slimq", version=__version__, lifespan=lifespan, **FASTAPI_OPTIONS)
    act_endpoint, infer_endpoint = act.make_endpoint(pipeline), infer.make_endpoint(pipeline)
    app.router.routes += [
        *act_endpoint.routes(act.PATHS, "act"),
        *infer_endpoint.routes(infer.PATHS, "infer"),
        *CompareEndpoint(pipeline).routes(),
        *streams.routes(),
    ]
    models = Models(catalogue, pipeline.recorder.statistics, settings.max_batch, peers)
    for router in (
        make_protocol_router(catalogue, lifecycle, models),
        make_control_router(catalogue, settings, peers),
        make_page_router(catalogue, proxies, plays=games.available),
        make_play_router(catalogue, games),
        make_interface_router(app, proxies),
        make_resource_router(catalogue),
        make_model_router(catalogue),
        make_health_router(catalogue, lifecycle, exposition, ready.update),
    ):
        app.include_router(router)
    add_error_handlers(app, metrics)
    add_openapi(app, partial(describe, keys=keys))
    dispatch = Dispatch(wrap_routes(app, settings, peers, metrics), act_endpoint, infer_endpoint)
    protect = _make_protect(settings, peers, metrics, keys, make_id, provider)
    refused = partial(count_refused, metrics, make_id)
    return Application(
        protect(dispatch), protect, app, lifecycle, arrivals, refused, pipeline, streams
    )


def _make_protect(*options: Any) -> Callable[[ASGIApp], ASGIApp]:
    return lambda app: wrap(app, *options)


def _make_catalogue(settings: Settings, metrics: Metrics) -> Catalogue:
    return Catalogue(
        Repository(settings.policies, settings.max_model_bytes),
        metrics,
        settings.retry_seconds,
        settings.batch_observations,
        settings.memory_budget_bytes,
        settings.pinned_keys(),
        settings.providers,
    )


def _make_engine(settings: Settings, arrivals: Arrivals, metrics: Metrics) -> Engine:
    limits = BatchLimits(
        settings.batch_observations,
        settings.queue_requests,
        settings.queue_seconds,
        settings.queue_bytes,
        settings.alone_seconds,
    )
    metrics.queue_limit.set(settings.queue_requests)
    metrics.queue_bytes_limit.set(settings.queue_bytes)
    return Engine(settings.inline_seconds, settings.inference_threads, limits, arrivals, metrics)


def _make_lifespan(
    settings: Settings,
    catalogue: Catalogue,
    engine: Engine,
    shadow: Shadow,
    ready: ReadyMetrics,
    provider: Any,
) -> Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]:
    """The lifespan: the first scan, the background tasks, and their end."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001
        with contextlib.suppress(RepositoryError):  # reported by /readyz, and retried
            await catalogue.refresh()
        await engine.calibrate()
        background = [
            asyncio.create_task(catalogue.watch(settings.watch_seconds)),
            asyncio.create_task(catalogue.evidence.watch()),
            asyncio.create_task(shadow.run()),
            asyncio.create_task(watch_lag(ready.metrics.event_loop_lag)),
            asyncio.create_task(ready.watch()),
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

    return lifespan
