"""The protocol's endpoints for metadata, health, readiness, configuration and statistics."""

from __future__ import annotations

import contextlib
from typing import Any

from fastapi import APIRouter, Request, Response

from slimq import __version__
from slimq.core.errors import RepositoryError
from slimq.core.manifest import PolicyManifest
from slimq_service.api.v2.documents import (
    TAG,
    Health,
    ModelConfig,
    ModelMetadata,
    ModelReady,
    ServerMetadata,
    StatisticsList,
    merge_statistics,
    model_config,
    model_metadata,
    model_statistics,
)
from slimq_service.api.v2.state import version_state
from slimq_service.http.error_responses import V2_PREFIX
from slimq_service.http.peers import Peers
from slimq_service.metrics.statistics import Statistics
from slimq_service.operations.health import Lifecycle, readiness
from slimq_service.variants.catalogue import Catalogue

EXTENSIONS = ["binary_tensor_data", "model_repository", "model_configuration", "statistics"]
MODEL = "/models/{model}"
VERSION = "/models/{model}/versions/{version}"
NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"model": ModelReady, "description": "Known, but not ready"}
}


class Models:
    """Describes policies as models; every method scans the repository first."""

    def __init__(
        self, catalogue: Catalogue, statistics: Statistics, max_batch: int, peers: Peers
    ) -> None:
        self._catalogue = catalogue
        self._statistics = statistics
        self._max_batch = max_batch
        self._peers = peers

    async def metadata(self, model: str, version: str | None = None) -> ModelMetadata:
        """The versions, inputs and outputs of a model."""
        policy = await self._find(model, version)
        versions = list(self._catalogue.variants(model)) if version is None else [version]
        return model_metadata(policy, versions)

    async def ready(self, response: Response, model: str, version: str | None = None) -> ModelReady:
        """Readiness of a version, or of the default one; sets the status 503 if not ready."""
        policy = await self._find(model, version)
        found = version_state(self._catalogue, model, version or policy.default_variant)
        if found.state == "READY":
            return ModelReady(name=model, ready=True)
        response.status_code = 503
        error = f"{model}/{found.variant}: {found.reason}"
        return ModelReady(name=model, ready=False, error=error)

    async def config(self, model: str, version: str | None = None) -> ModelConfig:
        """The configuration that load generators read."""
        return model_config(await self._find(model, version), self._max_batch)

    async def statistics(
        self, request: Request, model: str | None = None, version: str | None = None
    ) -> StatisticsList:
        """Totals over all workers, of one version, of a model's versions, or of all versions."""
        catalogue = self._catalogue
        await catalogue.refresh()
        if model is not None and version is not None:
            catalogue.check_known(model, version)
        found = [
            model_statistics(policy, variant, self._statistics.of(policy, variant))
            for policy in ([model] if model is not None else catalogue.policies())
            for variant in ([version] if version is not None else catalogue.variants(policy))
        ]
        own = StatisticsList(model_stats=found)
        responses = await self._peers.ask(request, b"")
        others = [StatisticsList.model_validate_json(r.body) for r in responses if r.status == 200]
        return merge_statistics([own, *others])

    async def _find(self, model: str, version: str | None) -> PolicyManifest:
        await self._catalogue.refresh()
        if version is not None:
            self._catalogue.check_known(model, version)
        return self._catalogue.policy(model)


def make_protocol_router(catalogue: Catalogue, lifecycle: Lifecycle, models: Models) -> APIRouter:
    """The read-only routes of the protocol."""
    router = APIRouter(prefix=V2_PREFIX, tags=[TAG])

    @router.get("", summary="Server metadata")
    async def get_server() -> ServerMetadata:
        return ServerMetadata(version=__version__, extensions=EXTENSIONS)

    @router.get("/health/live", summary="Liveness of the server", response_model_exclude_none=True)
    async def get_live() -> Health:
        return Health(ready=readiness(catalogue, lifecycle).ready)

    @router.get(
        "/health/ready",
        summary="Readiness of the server",
        response_model_exclude_none=True,
        responses={503: {"model": Health, "description": "No version is ready"}},
    )
    async def get_ready(response: Response) -> Health:
        with contextlib.suppress(RepositoryError):  # reported as the detail's problem
            await catalogue.refresh()
        detail = readiness(catalogue, lifecycle)
        if detail.ready:
            return Health(ready=True)
        response.status_code = 503
        return Health(ready=False, error=detail.problem or "no version is ready")

    # Takes precedence over the metadata of a model named `stats`.
    @router.get("/models/stats", summary="Statistics of all models")
    async def get_every_statistics(request: Request) -> StatisticsList:
        return await models.statistics(request)

    _add_model_routes(router, models)
    _add_version_routes(router, models)
    return router


def _add_model_routes(router: APIRouter, models: Models) -> None:
    @router.get(MODEL, summary="Model metadata")
    async def get_model(model: str) -> ModelMetadata:
        return await models.metadata(model)

    @router.get(
        MODEL + "/ready",
        summary="Readiness of a model's default version",
        response_model_exclude_none=True,
        responses=NOT_READY,
    )
    async def get_model_ready(response: Response, model: str) -> ModelReady:
        return await models.ready(response, model)

    @router.get(MODEL + "/config", summary="Model configuration", response_model_exclude_none=True)
    async def get_model_config(model: str) -> ModelConfig:
        return await models.config(model)

    @router.get(MODEL + "/stats", summary="Statistics of a model")
    async def get_model_statistics(request: Request, model: str) -> StatisticsList:
        return await models.statistics(request, model)


def _add_version_routes(router: APIRouter, models: Models) -> None:
    @router.get(VERSION, summary="Version metadata")
    async def get_version(model: str, version: str) -> ModelMetadata:
        return await models.metadata(model, version)

    @router.get(
        VERSION + "/ready",
        summary="Readiness of a version",
        response_model_exclude_none=True,
        responses=NOT_READY,
    )
    async def get_version_ready(response: Response, model: str, version: str) -> ModelReady:
        return await models.ready(response, model, version)

    @router.get(
        VERSION + "/config", summary="Version configuration", response_model_exclude_none=True
    )
    async def get_version_config(model: str, version: str) -> ModelConfig:
        return await models.config(model, version)

    @router.get(VERSION + "/stats", summary="Statistics of a version")
    async def get_version_statistics(request: Request, model: str, version: str) -> StatisticsList:
        return await models.statistics(request, model, version)
