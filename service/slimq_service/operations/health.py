"""Whether the process lives, whether it can serve, and its metrics."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from slimq.core.errors import RepositoryError
from slimq_service.http.worker_table import State, Worker
from slimq_service.operations.scrape import MEDIA_TYPE, Exposition
from slimq_service.variants.catalogue import Catalogue


@dataclass
class Lifecycle:
    """Where the process is, and the service's other processes.

    Attributes:
        workers: every process of a service that has several.
        draining: from the signal that ends it on.
    """

    workers: Callable[[], list[Worker]] = list
    draining: bool = False


class Alive(BaseModel):
    """The process answers."""

    alive: Literal[True] = True


class VariantHealth(BaseModel):
    """One variant: can it answer, from memory or once it is loaded?"""

    policy: str
    variant: str
    state: Literal["available", "loaded", "stale", "broken"] = Field(
        description="available: whole on disk, not yet in memory; loaded: in memory, and its "
        "manifest on disk has not changed since (its model on disk is not looked at again); "
        "stale: what is on disk is broken, the version before it keeps answering; "
        "broken: it cannot answer"
    )
    sha256: str | None = Field(default=None, description="of the model in memory")
    problem: str | None = None


class WorkerHealth(BaseModel):
    """One of several processes."""

    index: int
    pid: int
    state: Literal["starting", "answering", "stalled"] = Field(
        description="stalled: it does not answer, gets no new connections, and is replaced soon"
    )


class Readiness(BaseModel):
    """Ready once what is pinned was loaded, as long as one variant can answer; names the broken."""

    ready: bool
    problem: str | None = Field(default=None, description="of the repository as a whole")
    variants: list[VariantHealth]
    workers: list[WorkerHealth] = Field(default=[], description="where there are several")


def is_ready(catalogue: Catalogue, lifecycle: Lifecycle) -> bool:
    """As `readiness`, without the detail: it looks no further than at the first that can answer."""
    able = any(health.state != "broken" for health in _healths(catalogue))
    return able and not catalogue.residents.awaited() and not lifecycle.draining


def readiness(catalogue: Catalogue, lifecycle: Lifecycle) -> Readiness:
    """What the latest look at the repository and the loads so far say."""
    found = list(_healths(catalogue))
    problem = catalogue.scan_error
    unreadable = [str(p.error) for p in catalogue.scan.policies.values() if p.error]
    if problem is None and unreadable:
        problem = "; ".join(unreadable)
    awaited = ", ".join("/".join(key) for key in catalogue.residents.awaited())
    if lifecycle.draining:
        problem = "the service is shutting down"
    if problem is None and awaited:
        problem = f"pinned and not in memory yet: {awaited}"
    if problem is None and not found:
        problem = f"{catalogue.repository.root}: no variant is published there"
    workers = [_worker_health(worker) for worker in lifecycle.workers()]
    stalled = [f"{one.index} (process {one.pid})" for one in workers if one.state == "stalled"]
    if problem is None and stalled:
        problem = f"workers that do not answer: {', '.join(stalled)}"
    ready = is_ready(catalogue, lifecycle)
    return Readiness(ready=ready, problem=problem, variants=found, workers=workers)


def _worker_health(worker: Worker) -> WorkerHealth:
    states: dict[State, Literal["starting", "answering", "stalled"]] = {
        State.STARTING: "starting",
        State.ANSWERING: "answering",
        State.STALLED: "stalled",
    }
    return WorkerHealth(index=worker.index, pid=worker.pid, state=states[worker.state])


def _healths(catalogue: Catalogue) -> Iterator[VariantHealth]:
    for policy, scanned in catalogue.scan.policies.items():
        for variant in scanned.variants:
            state = catalogue.residents.state(policy, variant)
            problem = str(state.error) if state.error else None
            if state.loaded is not None:
                status: Literal["available", "loaded", "stale", "broken"] = (
                    "stale" if problem else "loaded"
                )
            elif problem is None and scanned.manifest is None:
                status, problem = "broken", str(scanned.error)
            else:
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
    """The routes for whoever watches the service.

    Args:
        catalogue: the latest look at the repository.
        lifecycle: of the process.
        exposition: the text of its metrics.
        prepare: called in the event loop before each scrape.
    """
    router = APIRouter(tags=["health"])

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz", summary="Is the process alive?")
    async def get_healthz() -> Alive:
        return Alive()

    @router.head("/readyz", include_in_schema=False)
    @router.get(
        "/readyz",
        summary="Can it serve, and which variants not?",
        responses={503: {"model": Readiness, "description": "no variant can answer"}},
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
