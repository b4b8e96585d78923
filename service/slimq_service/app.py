"""Puts the service together. Nothing happens at import."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial

from fastapi import FastAPI

from slimq import __version__
from slimq.core.errors import RepositoryError
from slimq.core.onnx_policy import check_providers
from slimq.core.repository import Repository
from slimq_service.api.dispatch import Front
from slimq_service.api.errors import add_error_handlers
from slimq_service.api.interface import make_interface_router
from slimq_service.api.openapi import add_openapi
from slimq_service.api.stream.endpoint import StreamEndpoint
from slimq_service.api.v1.act import ActEndpoint
from slimq_service.api.v1.compare import CompareEndpoint
from slimq_service.api.v1.page import make_page_router
from slimq_service.api.v1.policies import make_resource_router
from slimq_service.api.v2.infer import InferEndpoint
from slimq_service.api.v2.metadata import Models, make_protocol_router
from slimq_service.api.v2.repository import make_control_router
from slimq_service.http.forwarded import Proxies
from slimq_service.http.peers import Peers
from slimq_service.http.request_ids import id_maker
from slimq_service.inference.arrivals import Arrivals
from slimq_service.inference.batching import BatchLimits
from slimq_service.inference.engine import Engine
from slimq_service.inference.shadow import Shadow
from slimq_service.metrics.event_loop_lag import watch_lag
from slimq_service.metrics.registry import Registry
from slimq_service.metrics.service import Metrics
from slimq_service.middleware.auth import describe, read_keys
from slimq_service.middleware.stack import (
    count_refused,
    surround,
    surround_routes,
    trace_provider,
)
from slimq_service.operations.evidence import Facts
from slimq_service.operations.health import Lifecycle, make_health_router
from slimq_service.operations.readiness import ReadyMetrics
from slimq_service.operations.scrape import Exposition
from slimq_service.requests.pipeline import Hot
from slimq_service.settings import PROVIDERS_SETTING, Settings
from slimq_service.variants.catalogue import Catalogue

DESCRIPTION = """Observations in, actions and Q-values out, from any variant of a policy.

The variant is chosen for each request: by path, by the body's `variant`, by `?variant=`, or else it
is the policy's default. Every error is a problem document (RFC 9457) with a stable `code`.

Under `/v2` is the Open Inference Protocol, where a policy is a model and a variant a version."""


def create_app(
    settings: Settings, registry: Registry | None = None, peers: Peers | None = None
) -> FastAPI:
    """The application; what a server is to run is the front, `app.state.front`.

    Args:
        settings: everything it can be told.
        registry: where its metrics go; a fresh one when None.
        peers: the other workers, if there are any.

    Raises:
        ConfigError: a file that a setting names cannot be read, or does not hold a key; or an
            execution provider is not there.
        MissingExtraError: traces are asked for, and OpenTelemetry is not installed.
    """
    peers = peers or Peers()
    check_providers(settings.providers, *PROVIDERS_SETTING)
    keys, make_id = read_keys(settings), id_maker()
    provider = trace_provider(settings)
    metrics = Metrics(registry or Registry())
    catalogue = Catalogue(
        Repository(settings.policies, settings.max_model_bytes),
        metrics,
        settings.retry_seconds,
        settings.batch_observations,
        settings.memory_budget_bytes,
        settings.pinned_keys(),
        settings.providers,
    )
    limits = BatchLimits(
        settings.batch_observations,
        settings.queue_requests,
        settings.queue_seconds,
        settings.queue_bytes,
        settings.alone_seconds,
    )
    arrivals = Arrivals()
    engine = Engine(settings.inline_seconds, settings.inference_threads, limits, arrivals, metrics)
    metrics.queue_limit.set(settings.queue_requests)
    metrics.queue_bytes_limit.set(settings.queue_bytes)
    proxies = Proxies(settings.forwarded_allow_ips, settings.root_path)
    shadow = Shadow(catalogue, metrics.registry, engine.busy, settings.batch_observations)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001
        with contextlib.suppress(RepositoryError):  # named by /readyz, and looked at again
            await catalogue.refresh()
        background = [
            asyncio.create_task(catalogue.watch(settings.watch_seconds)),
            asyncio.create_task(shadow.run()),
            asyncio.create_task(watch_lag(metrics.event_loop_lag)),
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

    app = FastAPI(
        title="slimq",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        openapi_url=None,
    )
    app.state.catalogue, app.state.shadow, app.state.metrics = catalogue, shadow, metrics
    app.state.arrivals = arrivals
    app.state.refused = partial(count_refused, metrics, make_id)
    hot = Hot(settings, catalogue, engine, shadow, metrics)
    models = Models(catalogue, hot.statistics, settings.max_batch, peers)
    lifecycle = app.state.lifecycle = Lifecycle()
    ready = ReadyMetrics(catalogue, lifecycle, metrics)
    exposition = Exposition(metrics.registry, Facts(catalogue), peers.folder, shadow.appear)
    act, infer = ActEndpoint(hot), InferEndpoint(hot)
    app.router.routes.extend([*act.routes(), *CompareEndpoint(hot).routes(), *infer.routes()])
    routes = surround_routes(app, settings, metrics)
    front = Front(routes, hot, act, infer, express=not settings.traces)
    app.state.front = surround(front, settings, metrics, keys, make_id, provider)
    app.state.streams = StreamEndpoint(hot)
    app.router.routes.extend(app.state.streams.routes())
    app.include_router(make_protocol_router(catalogue, lifecycle, models))
    app.include_router(make_control_router(catalogue, settings, peers))
    app.include_router(make_page_router(catalogue, proxies))
    app.include_router(make_interface_router(app, proxies))
    app.include_router(make_resource_router(catalogue))
    app.include_router(make_health_router(catalogue, lifecycle, exposition, ready.update))
    add_error_handlers(app, metrics)
    add_openapi(app, partial(describe, keys=keys))
    return app
