"""Metadata, health, readiness, configuration and statistics in the words of the protocol."""

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
    503: {"model": ModelReady, "description": "It is known, but cannot answer"}
}


class Models:
    """Answers about policies as models; each looks at the repository first."""

    def __init__(
        self, catalogue: Catalogue, statistics: Statistics, max_batch: int, peers: Peers
    ) -> None:
        self._catalogue = catalogue
        self._statistics = statistics
        self._max_batch = max_batch
        self._peers = peers

    async def metadata(self, model: str, version: str | None = None) -> ModelMetadata:
        """Versions, inputs and outputs."""
        policy = await self._find(model, version)
        versions = list(self._catalogue.variants(model)) if version is None else [version]
        return model_metadata(policy, versions)

    async def ready(self, response: Response, model: str, version: str | None = None) -> ModelReady:
        """Whether a version, or the default one, can answer; the status is 503 if not."""
        policy = await self._find(model, version)
        found = version_state(self._catalogue, model, version or policy.default_variant)
        if found.state == "READY":
            return ModelReady(name=model, ready=True)
        response.status_code = 503
        error = f"{model}/{found.variant}: {found.reason}"
        return ModelReady(name=model, ready=False, error=error)

    async def config(self, model: str, version: str | None = None) -> ModelConfig:
        """What load tools read."""
        return model_config(await self._find(model, version), self._max_batch)

    async def statistics(
        self, request: Request, model: str | None = None, version: str | None = None
    ) -> StatisticsList:
        """The totals of one version, of every one of a model, or of all; of every worker."""
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
        answers = await self._peers.ask(request, b"")
        others = [StatisticsList.model_validate_json(a.body) for a in answers if a.status == 200]
        return merge_statistics([own, *others])

    async def _find(self, model: str, version: str | None) -> PolicyManifest:
        await self._catalogue.refresh()
        if version is not None:
            self._catalogue.check_known(model, version)
        return self._catalogue.policy(model)


def make_protocol_router(catalogue: Catalogue, lifecycle: Lifecycle, models: Models) -> APIRouter:
    """The routes that are read."""
    router = APIRouter(prefix=V2_PREFIX, tags=[TAG])

    @router.get("", summary="The service and its extensions")
    async def get_server() -> ServerMetadata:
        return ServerMetadata(version=__version__, extensions=EXTENSIONS)

    @router.get("/health/live", summary="Is the process alive?", response_model_exclude_none=True)
    async def get_live() -> Health:
        return Health(ready=readiness(catalogue, lifecycle).ready)

    @router.get(
        "/health/ready",
        summary="Can any model answer?",
        response_model_exclude_none=True,
        responses={503: {"model": Health, "description": "No version can answer"}},
    )
    async def get_ready(response: Response) -> Health:
        with contextlib.suppress(RepositoryError):  # is in the detail, as its problem
            await catalogue.refresh()
        detail = readiness(catalogue, lifecycle)
        if detail.ready:
            return Health(ready=True)
        response.status_code = 503
        return Health(ready=False, error=detail.problem or "no version can answer")

    # Before the models' own routes: a policy named `stats` has its metadata by version alone.
    @router.get("/models/stats", summary="Statistics of every version of every model")
    async def get_every_statistics(request: Request) -> StatisticsList:
        return await models.statistics(request)

    _add_model_routes(router, models)
    _add_version_routes(router, models)
    return router


def _add_model_routes(router: APIRouter, models: Models) -> None:
    @router.get(MODEL, summary="A model's versions, inputs and outputs")
    async def get_model(model: str) -> ModelMetadata:
        return await models.metadata(model)

    @router.get(
        MODEL + "/ready",
        summary="Can a model's default version answer?",
        response_model_exclude_none=True,
        responses=NOT_READY,
    )
    async def get_model_ready(response: Response, model: str) -> ModelReady:
        return await models.ready(response, model)

    @router.get(
        MODEL + "/config", summary="A model's configuration", response_model_exclude_none=True
    )
    async def get_model_config(model: str) -> ModelConfig:
        return await models.config(model)

    @router.get(MODEL + "/stats", summary="Statistics of a model's versions")
    async def get_model_statistics(request: Request, model: str) -> StatisticsList:
        return await models.statistics(request, model)


def _add_version_routes(router: APIRouter, models: Models) -> None:
    @router.get(VERSION, summary="A version's inputs and outputs")
    async def get_version(model: str, version: str) -> ModelMetadata:
        return await models.metadata(model, version)

    @router.get(
        VERSION + "/ready",
        summary="Can a version answer?",
        response_model_exclude_none=True,
        responses=NOT_READY,
    )
    async def get_version_ready(response: Response, model: str, version: str) -> ModelReady:
        return await models.ready(response, model, version)

    @router.get(
        VERSION + "/config", summary="A version's configuration", response_model_exclude_none=True
    )
    async def get_version_config(model: str, version: str) -> ModelConfig:
        return await models.config(model, version)

    @router.get(VERSION + "/stats", summary="A version's statistics")
    async def get_version_statistics(request: Request, model: str, version: str) -> StatisticsList:
        return await models.statistics(request, model, version)
