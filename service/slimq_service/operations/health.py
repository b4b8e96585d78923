"""Liveness, readiness and metrics."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from slimq.core.errors import RepositoryError
from slimq_service.operations.scrape import MEDIA_TYPE, Exposition
from slimq_service.variants.catalogue import Catalogue


@dataclass
class Lifecycle:
    """The state of the process: draining from the signal that ends it on."""

    draining: bool = False


State = Literal["available", "loaded", "stale", "broken"]


class Alive(BaseModel):
    """The process answers."""

    alive: Literal[True] = True


class VariantHealth(BaseModel):
    """One variant: whether it can answer, from memory or once it is loaded."""

    policy: str
    variant: str
    state: State = Field(
        description="available: intact on disk, not in memory yet; loaded: in memory, as it is on "
        "disk; stale: the version on disk is broken, the one in memory keeps answering; "
        "broken: it cannot answer"
    )
    sha256: str | None = Field(default=None, description="of the model in memory")
    problem: str | None = None


class Readiness(BaseModel):
    """Ready when pinned variants have been loaded and at least one variant can answer."""

    ready: bool
    problem: str | None = Field(default=None, description="of the repository as a whole")
    variants: list[VariantHealth]


def is_ready(catalogue: Catalogue, lifecycle: Lifecycle) -> bool:
    """Whether the process is ready; `readiness` without the detail."""
    able = any(health.state != "broken" for health in _healths(catalogue))
    return able and not catalogue.residents.awaited() and not lifecycle.draining


def readiness(catalogue: Catalogue, lifecycle: Lifecycle) -> Readiness:
    """Readiness, from the latest scan of the repository and the loads so far."""
    found = list(_healths(catalogue))
    problem = catalogue.scan_error
    unreadable = [str(p.error) for p in catalogue.scan.policies.values() if p.error]
    if problem is None and unreadable:
        problem = "; ".join(unreadable)
    awaited = ", ".join("/".join(key) for key in catalogue.residents.awaited())
    if lifecycle.draining:
        problem = "the service is shutting down"
    if problem is None and awaited:
        problem = f"pinned variants not in memory yet: {awaited}"
    if problem is None and not found:
        problem = f"{catalogue.repository.root}: holds no variants"
    return Readiness(ready=is_ready(catalogue, lifecycle), problem=problem, variants=found)


def _healths(catalogue: Catalogue) -> Iterator[VariantHealth]:
    for policy, scanned in catalogue.scan.policies.items():
        for variant in scanned.variants:
            state = catalogue.residents.state(policy, variant)
            problem = str(state.error) if state.error else None
            status: State
            if state.loaded is not None:
                status = "stale" if problem else "loaded"
            else:
                if problem is None and scanned.manifest is None:
                    problem = str(scanned.error)
                problem = problem or catalogue.scan_error  # nothing can be loaded then
                status = "broken" if problem else "available"
            yield VariantHealth(
                policy=policy,
                variant=variant,
                state=status,
                sha256=state.loaded.sha256 if state.loaded else None,
                problem=problem,
            )


def make_health_router(
    catalogue: Catalogue,
    lifecycle: Lifecycle,
    exposition: Exposition,
    prepare: Callable[[], None],
) -> APIRouter:
    """The routes for probes and for Prometheus.

    Args:
        catalogue: the variants.
        lifecycle: of the process.
        exposition: encodes the metrics.
        prepare: called on the event loop before each scrape.
    """
    router = APIRouter(tags=["health"])

    @router.get("/healthz", summary="Liveness")
    async def get_healthz() -> Alive:
        return Alive()

    @router.get(
        "/readyz",
        summary="Readiness, with the state of every variant",
        responses={503: {"model": Readiness, "description": "not ready; the body says why"}},
    )
    async def get_readyz(response: Response) -> Readiness:
        with contextlib.suppress(RepositoryError):  # is in the detail, as scan_error
            await catalogue.refresh()
        detail = readiness(catalogue, lifecycle)
        response.status_code = 200 if detail.ready else 503
        return detail

    @router.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
    async def get_metrics() -> Response:
        prepare()
        content = await asyncio.to_thread(exposition.encode)
        return Response(content, headers={"content-type": MEDIA_TYPE})

    return router
