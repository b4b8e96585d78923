"""Loads variants one at a time, in the repository's thread.

Creating ONNX sessions concurrently is not documented as safe (onnxruntime #27089).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from slimq.core.errors import NotFoundError, RepositoryError, SlimqError
from slimq.core.repository import Repository
from slimq_service.metrics.service import Metrics
from slimq_service.variants.loading import LoadedVariant, load, trim_memory
from slimq_service.variants.residency import Residents
from slimq_service.variants.snapshot import Key, Scan, as_slimq_error


class Loader:
    """Loads variants into `Residents`, and evicts what exceeds their budget."""

    def __init__(
        self,
        repository: Repository,
        thread: ThreadPoolExecutor,
        residents: Residents,
        metrics: Metrics,
        max_batch: int,
        providers: Sequence[str],
    ) -> None:
        """Loads nothing yet.

        Args:
            repository: where models are read from.
            thread: where they are read and built.
            residents: receives the loaded variants.
            metrics: of the service.
            max_batch: largest batch size to warm up.
            providers: what runs the models, as for `make_session`.
        """
        self._repository, self._thread = repository, thread
        self._residents, self._metrics = residents, metrics
        self._max_batch, self._providers = max_batch, providers
        self._trimming: set[asyncio.Future[None]] = set()
        self._log = structlog.get_logger(component="loader")

    def start(self, key: Key, scan: Scan) -> asyncio.Task[LoadedVariant]:
        """Starts to load a variant found by a scan."""
        task = asyncio.create_task(self._load(key, scan))
        self._residents.start(key, task)
        task.add_done_callback(_retrieve)
        return task

    def evict(self) -> None:
        """Evicts what exceeds the budget, and if anything was evicted, trims memory."""
        if self._residents.evict():
            trimming = asyncio.ensure_future(self.trim())
            self._trimming.add(trimming)
            trimming.add_done_callback(self._trimming.discard)

    async def trim(self) -> None:
        """Returns freed memory to the system, in the thread; it takes milliseconds."""
        await asyncio.get_running_loop().run_in_executor(self._thread, trim_memory)

    async def close(self) -> None:
        """Cancels the loads in progress."""
        tasks: list[asyncio.Future[Any]] = [*self._residents.loads(), *self._trimming]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _load(self, key: Key, scan: Scan) -> LoadedVariant:
        policy, variant = key
        stamp, started = scan.variant(*key).stamp, time.monotonic()
        loop, residents = asyncio.get_running_loop(), self._residents
        try:
            arguments = scan.policy_manifest(policy), variant, self._max_batch, self._providers
            loaded = await loop.run_in_executor(self._thread, load, self._repository, *arguments)
        except (SlimqError, OSError) as error:
            problem = as_slimq_error(error, "/".join(key))
            self._metrics.of(*key).load_failures.inc()
            kept = problem
            if isinstance(problem, NotFoundError):
                kept = RepositoryError("/".join(key), "is missing from the repository")
            residents.fail(key, kept, stamp, time.monotonic())
            raise problem from error
        finally:
            residents.finish(key, asyncio.current_task())
        residents.put(key, loaded)
        self._metrics.of(*key).loads.inc()
        self._log.info(
            "variant loaded",
            policy=policy,
            variant=variant,
            sha256=loaded.sha256[:12],
            seconds=round(time.monotonic() - started, 4),
            inference_us=round(loaded.cost.seconds(1) * 1e6),
            memory_bytes=loaded.memory_bytes,
        )
        self.evict()
        return loaded


def _retrieve(task: asyncio.Task[LoadedVariant]) -> None:
    """Marks a failure as seen: it is kept in the state, and nobody may be waiting for it."""
    if not task.cancelled():
        task.exception()
