"""The variants in the repository and in memory: loaded on first use, replaced when they change.

All state belongs to the event loop; the repository is read, and models are built, in one thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from slimq.core.errors import NotFoundError, RepositoryError, SlimqError
from slimq.core.manifest import PolicyManifest, VariantManifest
from slimq.core.providers import CPU
from slimq.core.report import EvaluationReport
from slimq.core.repository import Repository
from slimq_service.metrics.service import Metrics
from slimq_service.variants.evidence import Evidence
from slimq_service.variants.loader import Loader
from slimq_service.variants.loading import LoadedVariant
from slimq_service.variants.model_files import ModelFiles
from slimq_service.variants.reports import Reports
from slimq_service.variants.residency import Residents
from slimq_service.variants.snapshot import Key, Scan, VariantScan, fresh_error, scan_repository


class Catalogue:
    """The repository as the service sees it.

    Attributes:
        repository: the repository on disk.
        scan: its latest successful scan.
        residents: the variants in memory.
        evidence: what their reports say.
        model_files: their models as files for clients.
    """

    def __init__(
        self,
        repository: Repository,
        metrics: Metrics,
        retry_seconds: float,
        max_batch: int = 1,
        memory_budget: int | None = None,
        pinned: frozenset[Key] = frozenset(),
        providers: Sequence[str] = CPU,
    ) -> None:
        """Reads nothing yet.

        Args:
            repository: the repository on disk.
            metrics: of the service.
            retry_seconds: time after which a broken variant is tried again.
            max_batch: largest batch size to warm up.
            memory_budget: bytes that variants may take, None for no limit.
            pinned: variants that are loaded at startup and never evicted.
            providers: what runs the models, as for `make_session`.
        """
        self.repository = repository
        self.scan = Scan()
        self.residents = Residents(metrics, memory_budget, pinned, retry_seconds)
        self._failure: SlimqError | None = RepositoryError(
            str(repository.root), "has not been read yet"
        )
        self._retry_seconds = retry_seconds
        self._thread = ThreadPoolExecutor(1, "slimq-repository")
        self._reports = Reports(repository, self._thread)
        self.evidence = Evidence(repository, self._thread, retry_seconds)
        self.model_files = ModelFiles(repository, self._thread)
        self._loader = Loader(
            repository, self._thread, self.residents, metrics, max_batch, providers
        )
        self._lock = asyncio.Lock()
        self._scans = 0
        self._reread: frozenset[Key] = frozenset()
        self._log = structlog.get_logger(component="catalogue")

    @property
    def scan_error(self) -> str | None:
        """Why the repository could not be read at the latest attempt, None if it could."""
        return None if self._failure is None else str(self._failure)

    async def watch(self, seconds: float) -> None:
        """Scans the repository periodically, until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.refresh()
            except RepositoryError:
                pass  # kept in scan_error, and logged
            except Exception:  # whatever the error, later versions must still be noticed
                self._log.exception("repository scan failed")

    async def close(self) -> None:
        """Cancels the loads in progress, and ends the thread."""
        await self._loader.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def refresh(self, reread: frozenset[Key] = frozenset()) -> None:
        """Returns after a scan of the repository that began after this call.

        Concurrent callers share one scan.

        Args:
            reread: variants whose files are read and hashed even if their stamps have not changed.

        Raises:
            RepositoryError: it cannot be read; what was known or is in memory stays.
        """
        begun = self._scans
        self._reread |= reread
        async with self._lock:
            if self._scans <= begun:
                await self._scan()
            if self._failure is not None:
                raise fresh_error(self._failure, str(self.repository.root))

    def check_known(self, policy: str, variant: str) -> None:
        """Refuses names that the repository does not have.

        Raises:
            NotFoundError: unknown policy or variant.
        """
        self.scan.variant(policy, variant)

    def policies(self) -> list[str]:
        """The names of all policies."""
        return list(self.scan.policies)

    def policy(self, name: str) -> PolicyManifest:
        """A policy's manifest.

        Raises:
            NotFoundError: unknown policy.
            RepositoryError: its manifest cannot be read.
        """
        return self.scan.policy_manifest(name)

    def variants(self, policy: str) -> dict[str, VariantScan]:
        """A policy's variants on disk, by name.

        Raises:
            NotFoundError: unknown policy.
        """
        return dict(self.scan.policy(policy).variants)

    def variant(self, policy: str, variant: str) -> VariantManifest:
        """A variant's manifest.

        Raises:
            NotFoundError: unknown policy or variant.
            RepositoryError: its manifest cannot be read.
        """
        return self.scan.variant_manifest(policy, variant)

    async def report(self, policy: str, variant: str) -> EvaluationReport | None:
        """A variant's report, None if it has not been evaluated; read once for each version.

        Raises:
            NotFoundError: unknown policy or variant.
            RepositoryError: it cannot be read.
        """
        return await self._reports.read(self.variant(policy, variant))

    async def known_policy(self, name: str) -> PolicyManifest:
        """A policy's manifest, after a new scan if the policy is not known yet; see `policy`."""
        found = self.scan.policies.get(name)
        if found is None:
            await self.refresh()
        elif found.manifest is not None:
            return found.manifest
        return self.policy(name)

    async def get(self, policy: str, variant: str) -> LoadedVariant:
        """The variant, loaded now if it is not in memory; concurrent callers share one load.

        Raises:
            NotFoundError: unknown policy or variant.
            RepositoryError: it cannot be loaded.
        """
        key = policy, variant
        state = self.residents.use(key)
        if state is None:
            await self.refresh()
        elif state.loaded is not None:
            return state.loaded
        found = self.scan.variant(policy, variant)
        state = self.residents.state(policy, variant)
        if state.loaded is not None:
            return state.loaded
        if found.error is not None:
            raise fresh_error(found.error, f"{policy}/{variant}")
        if state.task is None and not state.may_retry(found.stamp, self._retry_seconds):
            raise fresh_error(state.error, f"{policy}/{variant}")
        try:
            return await asyncio.shield(state.task or self._loader.start(key, self.scan))
        except NotFoundError:  # it was removed since the last scan, or the whole repository was
            await self.refresh()
            raise

    async def load(self, policy: str, variant: str) -> None:
        """Loads the version on disk, after reading and hashing its files again.

        A version that failed is retried at once. If it is in memory already, it stays there.

        Raises:
            NotFoundError: unknown policy or variant.
            RepositoryError: it cannot be loaded; a version that is in memory keeps serving.
        """
        key = policy, variant
        await self.refresh(frozenset({key}))
        found = self.scan.variant(policy, variant)
        if found.error is not None:
            raise fresh_error(found.error, f"{policy}/{variant}")
        state = self.residents.state(policy, variant)
        if state.task is not None:  # perhaps of an earlier version
            await asyncio.wait([state.task])
        manifest = self.scan.policy(policy).manifest
        if state.error is not None or not self.residents.renew(key, found, manifest):
            await asyncio.shield(state.task or self._loader.start(key, self.scan))

    async def unload(self, policy: str, variant: str) -> None:
        """Drops a variant from memory, after waiting for a load in progress.

        Requests in progress keep its session; a later one loads the variant again.

        Raises:
            NotFoundError: unknown policy or variant.
            ConflictError: it is pinned.
        """
        self.check_known(policy, variant)
        self.residents.check_unpinned(policy, variant)
        while (task := self.residents.state(policy, variant).task) is not None:
            await asyncio.wait([task])
        self.residents.unload((policy, variant))
        await self._loader.trim()

    async def _scan(self) -> None:
        """Scans the repository, and applies the result; the caller holds the lock."""
        self._scans += 1
        reread, self._reread = self._reread, frozenset()
        arguments = self.repository, self.scan, self._retry_seconds, reread
        loop = asyncio.get_running_loop()
        try:
            scan = await loop.run_in_executor(self._thread, scan_repository, *arguments)
        except SlimqError as error:
            if self.scan_error != str(error):
                in_memory = len(self.residents.loaded())
                self._log.error("repository cannot be read", problem=str(error), serving=in_memory)
            self._failure = error
            self.residents.mark_unreadable()
            return
        except BaseException:  # the caller was cancelled: this scan must not count for others
            self._scans -= 1
            self._reread |= reread
            raise
        if self._failure is not None and self._scans > 1:
            self._log.info("repository can be read again", policies=len(scan.policies))
        self.scan, self._failure = scan, None
        self.evidence.update(scan)
        for key in self.residents.update(scan):
            self._loader.start(key, scan)
        self._loader.evict()
