"""Evaluation reports, each read once in the repository's thread and kept while it is the newest."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from slimq.core.manifest import VariantManifest
from slimq.core.report import EvaluationReport
from slimq.core.repository import Repository


class Reports:
    """The reports that somebody has asked for."""

    def __init__(self, repository: Repository, thread: ThreadPoolExecutor) -> None:
        """Reads nothing yet.

        Args:
            repository: what is on disk.
            thread: where it is read.
        """
        self._repository, self._thread = repository, thread
        self._kept: dict[tuple[str, str, str], EvaluationReport] = {}

    async def read(self, manifest: VariantManifest) -> EvaluationReport | None:
        """A variant's report, None before it is evaluated; read again only when it changed.

        Raises:
            NotFoundError: there is no such policy or variant any more.
            RepositoryError: it cannot be read.
        """
        entry = manifest.report
        if entry is None:
            return None
        policy, variant = manifest.policy, manifest.name
        kept = self._kept.get((policy, variant, entry.sha256))
        if kept is not None:
            return kept
        loop = asyncio.get_running_loop()
        read = await loop.run_in_executor(self._thread, self._repository.report, policy, variant)
        if read is not None:
            self._kept = {k: v for k, v in self._kept.items() if k[:2] != (policy, variant)}
            self._kept[policy, variant, entry.sha256] = read
        return read
