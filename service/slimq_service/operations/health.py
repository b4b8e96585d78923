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
from slimq_service.http.worker_table import State as WorkerState
from slimq_service.http.worker_table import Worker
from slimq_service.operations.scrape import MEDIA_TYPE, Exposition
from slimq_service.variants.catalogue import Catalogue


@dataclass
class Lifecycle:
    """The state of the process, and of the service's other processes.

    Attributes:
        workers: returns the live workers; empty for a single process.
        draining: whether the process has received the signal to end.
    """

    workers: Callable[[], list[Worker]] = list
    draining: bool = False


State = Literal["available", "loaded", "stale", "broken"]


class Alive(BaseModel):
    """Liveness of the process."""

    alive: Literal[True] = True


class VariantHealth(BaseModel):
    """State of a variant."""

    policy: str
    variant: str
    state: State = Field(
        description="available: intact on disk, not in memory yet; loaded: in memory, as it is on "
        "disk; stale: the version on disk is broken, an earlier one in memory keeps serving; "
        "broken: it cannot serve requests"
    )
    sha256: str | None = Field(default=None, description="SHA-256 of the model in memory")
    problem: str | None = None


class WorkerHealth(BaseModel):
    """One of several worker processes."""

    index: int
    pid: int
    state: Literal["starting", "answering", "stalled"] = Field(
        description="stalled: does not respond, gets no new connections, will soon be replaced"
    )


class Readiness(BaseModel):
    """Ready once pinned variants are loaded and at least one variant can serve requests."""

    ready: bool
    problem: str | None = Field(
        default=None, description="why it is not ready, or what is wrong with the repository"
    )
    variants: list[VariantHealth]
    workers: list[WorkerHealth] = Field(default=[], description="only with several workers")


def is_ready(catalogue: Catalogue, lifecycle: Lifecycle) -> bool:
    """Whether the process is ready; `readiness` has the details."""
    able = any(health.state != "broken" for health in _healths(catalogue))
    return able and not catalogue.residents.awaited() and not lifecycle.draining


def readiness(catalogue: Catalogue, lifecycle: Lifecycle) -> Readiness:
    """Readiness, according to the latest scan of the repository and the loads so far."""
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
    workers = [_worker_health(worker) for worker in lifecycle.workers()]
    stalled = [f"{one.index} (process {one.pid})" for one in workers if one.state == "stalled"]
    if problem is None and stalled:
        problem = f"workers that do not answer: {', '.join(stalled)}"
    ready = is_ready(catalogue, lifecycle)
    return Readiness(ready=ready, problem=problem, variants=found, workers=workers)


def _worker_health(worker: Worker) -> WorkerHealth:
    states: dict[WorkerState, Literal["starting", "answering", "stalled"]] = {
        WorkerState.STARTING: "starting",
        WorkerState.ANSWERING: "answering",
        WorkerState.STALLED: "stalled",
    }
    return WorkerHealth(index=worker.index, pid=worker.pid, state=states[worker.state])


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
        with contextlib.suppress(RepositoryError):  # reported in the detail
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
