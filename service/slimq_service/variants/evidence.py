"""Judgements of the variants in the latest scan, from their reports: each against the full policy.

A comparison takes 10 to 100 ms, so none is made for a request. After a scan, those of new reports
are made one by one in the repository's thread: a load then waits for one of them at most, and the
memory that is measured while a model is loaded is that of the model.
"""

from __future__ import annotations

import asyncio
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from slimq.core.errors import InvalidInputError, SlimqError
from slimq.core.evidence import Judgement, judge
from slimq.core.manifest import PolicyManifest, VariantManifest
from slimq.core.observation import ObservationSpec
from slimq.core.repository import Repository
from slimq_service.variants.snapshot import Key, Scan

MAX_DRAWS = 100_000_000
"""Returns drawn by the bootstrap of one comparison: 1 s; the usual one draws 6 million."""
NOT_YET = "has not been compared with the baseline yet"


@dataclass(frozen=True)
class _Basis:
    """Everything that a judgement depends on; models and reports by their sha256."""

    model: str
    report: str
    full_model: str | None
    full_report: str | None
    observation: ObservationSpec
    random_mean: float | None


@dataclass(frozen=True)
class _Made:
    """A judgement with its basis, and when it is made again although the basis is the same."""

    basis: _Basis
    judgement: Judgement
    due: float = math.inf


class Evidence:
    """The judgements of the variants in the latest scan."""

    def __init__(
        self, repository: Repository, thread: ThreadPoolExecutor, retry_seconds: float
    ) -> None:
        """Reads nothing yet.

        Args:
            repository: where reports are read from.
            thread: the thread that reads and compares them.
            retry_seconds: time after which a broken report is read again.
        """
        self._repository, self._thread = repository, thread
        self._retry_seconds = retry_seconds
        self._scan = Scan()
        self._scanned = asyncio.Event()
        self._made: dict[Key, _Made] = {}
        self._log = structlog.get_logger(component="evidence")

    def update(self, scan: Scan) -> None:
        """Takes a new scan; what is new in it is judged by `watch`."""
        self._scan = scan
        self._made = {key: made for key, made in self._made.items() if scan.knows(*key)}
        self._scanned.set()

    def find(self, policy: str, variant: str) -> Judgement | None:
        """The judgement of a variant, in any thread; None if it was never played."""
        key = policy, variant
        basis = _basis(self._scan, key)
        if basis is None:
            return None
        made = self._made.get(key)
        return made.judgement if made and made.basis == basis else Judgement(problem=NOT_YET)

    async def watch(self) -> None:
        """Judges what is new after each scan, until cancelled."""
        while True:
            await self._scanned.wait()
            self._scanned.clear()
            scan = self._scan
            for key, _ in scan.entries():
                basis = _basis(scan, key)
                if basis is not None and self._is_due(key, basis):
                    self._made[key] = await self._judge(scan, key, basis)
                if self._scan is not scan:  # what is judged already is not judged again
                    break

    def _is_due(self, key: Key, basis: _Basis) -> bool:
        made = self._made.get(key)
        return made is None or made.basis != basis or time.monotonic() >= made.due

    async def _judge(self, scan: Scan, key: Key, basis: _Basis) -> _Made:
        policy = scan.policy_manifest(key[0])
        full = _baseline(scan, policy)
        arguments = self._repository, policy, scan.variant_manifest(*key), full
        loop = asyncio.get_running_loop()
        try:
            judgement = await loop.run_in_executor(self._thread, _compare, *arguments)
        except InvalidInputError as error:
            return _Made(basis, Judgement(problem=str(error)))
        except SlimqError as error:  # a file may be mended without a change of its manifest
            due = time.monotonic() + self._retry_seconds
            return _Made(basis, Judgement(problem=str(error)), due)
        except Exception:  # whatever is in one report, the others are judged
            self._log.exception("comparison failed", policy=key[0], variant=key[1])
            return _Made(basis, Judgement(problem="cannot be compared; the log has the reason"))
        return _Made(basis, judgement)


def _basis(scan: Scan, key: Key) -> _Basis | None:
    """The basis of a variant's judgement; None if it was never played."""
    if not scan.knows(*key):
        return None
    policy, variant = scan.policy(key[0]).manifest, scan.variant(*key).manifest
    if policy is None or variant is None or variant.report is None or not policy.proven_in_play:
        return None
    full = _baseline(scan, policy)
    return _Basis(
        variant.model.sha256,
        variant.report.sha256,
        full.model.sha256 if full else None,
        full.report.sha256 if full and full.report else None,
        policy.observation,
        policy.random_policy.mean if policy.random_policy else None,
    )


def _baseline(scan: Scan, policy: PolicyManifest) -> VariantManifest | None:
    found = scan.policies[policy.name].variants.get(policy.baseline_variant)
    return found.manifest if found is not None else None


def _compare(
    repository: Repository,
    policy: PolicyManifest,
    variant: VariantManifest,
    baseline: VariantManifest | None,
) -> Judgement:
    """Reads two reports and compares them.

    Raises:
        InvalidInputError: there is nothing to compare, or the two cannot be compared.
        RepositoryError: a report cannot be read.
    """
    report = repository.report_of(variant)
    full = repository.report_of(baseline) if baseline is not None else None
    return judge(policy, variant, report, baseline, full, MAX_DRAWS)
