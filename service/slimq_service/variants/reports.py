"""Evaluation reports, each read once in the repository's thread and kept until it is replaced."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from slimq.core.manifest import VariantManifest
from slimq.core.report import EvaluationReport
from slimq.core.repository import Repository


class Reports:
    """The reports requested so far."""

    def __init__(self, repository: Repository, thread: ThreadPoolExecutor) -> None:
        """Reads nothing yet.

        Args:
            repository: where reports are read from.
            thread: the thread that reads them.
        """
        self._repository, self._thread = repository, thread
        self._kept: dict[tuple[str, str, str], EvaluationReport] = {}

    async def read(self, manifest: VariantManifest) -> EvaluationReport | None:
        """A variant's report, None if it has not been evaluated; read once for each version.

        Raises:
            NotFoundError: the variant was removed.
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
