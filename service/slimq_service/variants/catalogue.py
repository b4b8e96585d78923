"""Which variants there are, and which are in memory: loaded on first use, kept, swapped if changed.

All state belongs to the event loop; disk and model building happen in one thread of their own, one
at a time (building ONNX sessions side by side is not documented as safe: onnxruntime #27089).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from slimq.core.errors import RepositoryError, SlimqError
from slimq.core.manifest import PolicyManifest, VariantManifest
from slimq.core.providers import CPU
from slimq.core.report import EvaluationReport
from slimq.core.repository import Repository
from slimq_service.metrics.service import Metrics
from slimq_service.variants.loading import LoadedVariant, Stamp, load, trim_memory
from slimq_service.variants.reports import Reports
from slimq_service.variants.residency import Residents, VariantState
from slimq_service.variants.snapshot import (
    Key,
    Scan,
    VariantScan,
    again,
    named,
    renew,
    scan_repository,
)


class Catalogue:
    """The repository as the service sees it."""

    def __init__(
        self,
        repository: Repository,
        metrics: Metrics,
        retry_seconds: float,
        largest_batch: int = 1,
        memory_budget: int | None = None,
        pinned: frozenset[Key] = frozenset(),
        providers: Sequence[str] = CPU,
    ) -> None:
        """Knows nothing yet.

        Args:
            repository: what is on disk.
            metrics: where loads and what is in memory are counted.
            retry_seconds: after which what was broken is tried again.
            largest_batch: up to which a variant is warmed.
            memory_budget: bytes that variants may take, None without a limit.
            pinned: what is loaded at once and never evicted.
            providers: what runs the models, as `make_session` has them.
        """
        self.repository = repository
        self.scan = Scan()
        self.scan_error: str | None = "the repository has not been read yet"
        self._failure: SlimqError | None = None
        self._metrics = metrics
        self._retry_seconds = retry_seconds
        self._largest_batch = largest_batch
        self._providers = providers
        self.residents = Residents(metrics, memory_budget, pinned)
        self._states = self.residents.states
        self._thread = ThreadPoolExecutor(1, "slimq-repository")
        self._reports = Reports(repository, self._thread)
        self._lock = asyncio.Lock()
        self._scans = 0
        self._trimming: set[asyncio.Future[None]] = set()
        self._log = structlog.get_logger(component="catalogue")

    async def watch(self, seconds: float) -> None:
        """Looks at the repository again and again, until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.refresh()
            except RepositoryError:
                pass  # kept in scan_error, and logged
            except Exception:  # whatever it is, what is published later must still be seen
                self._log.exception("look at the repository failed")

    async def close(self) -> None:
        """Ends the loads under way and the thread."""
        loads = [state.task for state in self._states.values() if state.task is not None]
        tasks: list[asyncio.Future[Any]] = [*loads, *self._trimming]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def refresh(self) -> None:
        """Returns after a look at the repository that began after this call.

        Callers that wait at the same time share one look.

        Raises:
            RepositoryError: it cannot be listed; what was known stays.
        """
        begun = self._scans
        async with self._lock:
            if self._scans > begun:
                if self._failure is not None:
                    raise again(self._failure, str(self.repository.root))
                return
            self._scans += 1
            loop = asyncio.get_running_loop()
            try:
                self.scan = await loop.run_in_executor(
                    self._thread, scan_repository, self.repository, self.scan, self._retry_seconds
                )
            except SlimqError as error:
                if self.scan_error != str(error):
                    self._log.error("repository cannot be read", problem=str(error))
                self.scan_error = str(error)
                self._failure = error
                raise again(error, str(self.repository.root)) from error
            self.scan_error = self._failure = None
            self._apply()

    def check_known(self, policy: str, variant: str) -> None:
        """Holds a name to the repository's listing.

        Raises:
            NotFoundError: there is no such policy or variant.
        """
        self.scan.variant(policy, variant)

    def policies(self) -> list[str]:
        """Every policy's name."""
        return list(self.scan.policies)

    def policy(self, name: str) -> PolicyManifest:
        """A policy's manifest.

        Raises:
            NotFoundError: there is no such policy.
            RepositoryError: its manifest cannot be read.
        """
        found = self.scan.policy(name)
        if found.manifest is None:
            raise again(found.error, name)
        return found.manifest

    def variants(self, policy: str) -> dict[str, VariantScan]:
        """What is on disk for each variant of a policy.

        Raises:
            NotFoundError: there is no such policy.
        """
        return dict(self.scan.policy(policy).variants)

    def variant(self, policy: str, variant: str) -> VariantManifest:
        """A variant's manifest.

        Raises:
            NotFoundError: there is no such policy or variant.
            RepositoryError: its manifest cannot be read.
        """
        found = self.scan.variant(policy, variant)
        if found.manifest is None:
            raise again(found.error, f"{policy}/{variant}")
        return found.manifest

    async def report(self, policy: str, variant: str) -> EvaluationReport | None:
        """A variant's report, None before it is evaluated; read again only when it changed.

        Raises:
            NotFoundError: there is no such policy or variant.
            RepositoryError: it cannot be read.
        """
        return await self._reports.read(self.variant(policy, variant))

    async def known_policy(self, name: str) -> PolicyManifest:
        """As `policy`, after another look where the name is not known yet."""
        if name not in self.scan.policies:
            await self.refresh()
        return self.policy(name)

    def loaded(self, policy: str, variant: str) -> LoadedVariant | None:
        """The variant if it is in memory, which counts as a use of it."""
        state = self._states.get((policy, variant))
        if state is None or state.loaded is None:
            return None
        state.used = time.monotonic()
        return state.loaded

    async def get(self, policy: str, variant: str) -> LoadedVariant:
        """The variant, loaded now if it is not in memory; callers at once share one load.

        Raises:
            NotFoundError: there is no such policy or variant.
            RepositoryError: it cannot be loaded.
        """
        state = self._states.get((policy, variant))
        if state is not None:
            state.used = time.monotonic()
            if state.loaded is not None:
                return state.loaded
        else:
            await self.refresh()
        found = self.scan.variant(policy, variant)
        state = self._states[policy, variant]
        if state.loaded is not None:
            return state.loaded
        if found.error is not None:
            raise again(found.error, f"{policy}/{variant}")
        if state.task is None and not state.may_retry(found.stamp, self._retry_seconds):
            raise again(state.error, f"{policy}/{variant}")
        return await asyncio.shield(state.task or self._start_load((policy, variant), state))

    async def load(self, policy: str, variant: str) -> None:
        """Has the newest version in memory, without waiting out the time after a failure.

        Raises:
            NotFoundError: there is no such policy or variant.
            RepositoryError: it cannot be loaded; a version that is in memory goes on serving.
        """
        await self.refresh()
        found = self.scan.variant(policy, variant)
        if found.error is not None:
            raise again(found.error, f"{policy}/{variant}")
        key = policy, variant
        state = self._states[key]
        if state.task is not None:  # perhaps of a version before this one
            await asyncio.wait([state.task])
        kept = None
        if state.loaded is not None:
            kept = renew(state.loaded, found, self.scan.policies[policy].manifest)
        if kept is not None and state.error is None:
            state.loaded = kept
        else:
            await asyncio.shield(state.task or self._start_load(key, state))

    async def unload(self, policy: str, variant: str) -> None:
        """Drops a variant from memory; a load under way is waited for, and then dropped.

        Requests under way keep what they have; a later one loads the variant again.

        Raises:
            NotFoundError: there is no such policy or variant.
            ConflictError: it is pinned.
        """
        self.scan.variant(policy, variant)
        self.residents.check_unpinned(policy, variant)
        key = policy, variant
        state = self._states[key]
        while state.task is not None:
            await asyncio.wait([state.task])
        if self._states.get(key) is state:
            self.residents.drop(key)
            state.unloaded = True
        await self._trim()

    def _apply(self) -> None:
        """Takes over a new look: new variants, gone variants, and new versions of loaded ones."""
        found, residents = dict(self.scan.entries()), self.residents
        for key in [key for key in self._states if key not in found]:
            residents.disappear(key)
        for key, entry in found.items():
            policy = self.scan.policies[key[0]].manifest
            actions = policy.actions if policy is not None else ()
            state = self._states.get(key) or residents.appear(key, actions)
            wanted = key in residents.pinned or state.error is not None
            if entry.error is not None:
                residents.fail(key, entry.error, entry.stamp, entry.checked)
            elif state.loaded is not None and (kept := renew(state.loaded, entry, policy)):
                state.loaded, state.error = kept, None
            elif state.loaded is None and (state.unloaded or not wanted):
                state.error = None  # loaded on use; after an error at once, to see it is over
            elif state.task is None and state.may_retry(entry.stamp, self._retry_seconds):
                self._start_load(key, state)
            self._metrics.of(*key).broken.set(state.error is not None)
        self._evict()

    def _start_load(self, key: Key, state: VariantState) -> asyncio.Task[LoadedVariant]:
        state.unloaded = False
        state.task = asyncio.create_task(self._load(key, state, self.scan.variant(*key).stamp))
        state.task.add_done_callback(_retrieve)
        return state.task

    async def _load(self, key: Key, state: VariantState, stamp: Stamp) -> LoadedVariant:
        policy, variant = key
        started = time.monotonic()
        try:
            loop = asyncio.get_running_loop()
            loaded = await loop.run_in_executor(
                self._thread,
                load,
                self.repository,
                self.policy(policy),
                variant,
                stamp,
                self._largest_batch,
                self._providers,
            )
        except (SlimqError, OSError) as error:
            problem = named(error, "/".join(key))
            self._metrics.of(*key).load_failures.inc()
            self.residents.fail(key, problem, stamp, time.monotonic())
            raise problem from error
        finally:
            state.task = None
        self.residents.put(key, loaded)
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
        self._evict()
        return loaded

    def _evict(self) -> None:
        if self.residents.evict():
            trimming = asyncio.ensure_future(self._trim())
            self._trimming.add(trimming)
            trimming.add_done_callback(self._trimming.discard)

    async def _trim(self) -> None:
        """Has memory given back, in the thread; it takes milliseconds."""
        await asyncio.get_running_loop().run_in_executor(self._thread, trim_memory)


def _retrieve(task: asyncio.Task[LoadedVariant]) -> None:
    """Marks a failure as seen: it is kept in the state, and nobody may be waiting for it."""
    if not task.cancelled():
        task.exception()
