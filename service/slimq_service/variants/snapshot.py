"""Looks at the repository: what there is, and whether its files are whole.

By stat, not inotify, so that network mounts work. What has not changed is not read again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from slimq.core.errors import NotFoundError, RepositoryError, SlimqError
from slimq.core.manifest import PolicyManifest, VariantManifest
from slimq.core.repository import VARIANTS, Repository
from slimq_service.variants.loading import LoadedVariant, Stamp

Key = tuple[str, str]
"""The names of a policy and of a variant of it."""


@dataclass(frozen=True)
class VariantScan:
    """One variant on disk: its manifest, or why it cannot be served."""

    stamp: Stamp
    manifest: VariantManifest | None
    error: SlimqError | None
    checked: float


@dataclass(frozen=True)
class PolicyScan:
    """One policy on disk: its manifest, the last good one if it cannot be read now, and why."""

    stamp: tuple[int, int] | None
    manifest: PolicyManifest | None
    error: SlimqError | None
    checked: float
    variants: Mapping[str, VariantScan]


@dataclass(frozen=True)
class Scan:
    """The whole repository at one look."""

    policies: Mapping[str, PolicyScan] = field(default_factory=lambda: MappingProxyType({}))

    def knows(self, policy: str, variant: str) -> bool:
        """Whether there is such a variant."""
        found = self.policies.get(policy)
        return found is not None and variant in found.variants

    def policy(self, name: str) -> PolicyScan:
        """A policy.

        Raises:
            NotFoundError: there is no such policy.
        """
        if name not in self.policies:
            raise NotFoundError("policy", name, self.policies)
        return self.policies[name]

    def variant(self, policy: str, variant: str) -> VariantScan:
        """A variant.

        Raises:
            NotFoundError: there is no such policy or variant.
        """
        variants = self.policy(policy).variants
        if variant not in variants:
            raise NotFoundError("variant", variant, variants)
        return variants[variant]

    def entries(self) -> Iterator[tuple[Key, VariantScan]]:
        """Every variant of every policy."""
        for policy, scanned in self.policies.items():
            for variant, entry in scanned.variants.items():
                yield (policy, variant), entry


def scan_repository(repository: Repository, previous: Scan, retry_seconds: float) -> Scan:
    """A new look; entries that have not changed are taken over.

    Args:
        repository: the repository.
        previous: the last look.
        retry_seconds: age after which what was broken is read again, changed or not.

    Raises:
        RepositoryError: the repository itself cannot be listed.
    """
    found = {}
    for name in repository.policies():
        known = previous.policies.get(name)
        scanned = _scan_policy(repository, name, known, retry_seconds)
        if scanned is not None:
            found[name] = scanned
    return Scan(MappingProxyType(found))


def _scan_policy(
    repository: Repository, name: str, known: PolicyScan | None, retry_seconds: float
) -> PolicyScan | None:
    stamp = repository.policy_stamp(name)
    manifest, error, checked = None, None, time.monotonic()
    if known is not None and known.stamp == stamp and not _expired(known, retry_seconds):
        manifest, error, checked = known.manifest, known.error, known.checked
    else:
        try:
            manifest = repository.policy(name)
        except NotFoundError:
            return None
        except SlimqError as problem:
            error = problem
            manifest = known.manifest if known is not None else None
    variants = {}
    try:
        listing = repository.variants(name)
    except NotFoundError:
        return None
    except SlimqError as problem:  # no reason to drop what may be serving
        listing = list(known.variants) if known is not None else []
        error = error or problem
    for variant in listing:
        before = known.variants.get(variant) if known is not None else None
        scanned = _scan_variant(repository, name, variant, stamp, before, retry_seconds)
        if scanned is not None:
            variants[variant] = scanned
    return PolicyScan(stamp, manifest, error, checked, MappingProxyType(variants))


def _scan_variant(
    repository: Repository,
    policy: str,
    variant: str,
    policy_stamp: tuple[int, int] | None,
    known: VariantScan | None,
    retry_seconds: float,
) -> VariantScan | None:
    try:
        stamp = (policy_stamp, repository.stamp(policy, variant))
        if known is not None and known.stamp == stamp and not _expired(known, retry_seconds):
            return known
        manifest = repository.variant(policy, variant)
    except NotFoundError:
        return None
    except SlimqError as problem:
        return VariantScan((policy_stamp, None), None, problem, time.monotonic())
    try:
        repository.read_model(policy, variant)
    except (SlimqError, OSError) as problem:
        error = named(problem, f"{policy}/{VARIANTS}/{variant}/{manifest.model.path}")
        return VariantScan(stamp, manifest, error, time.monotonic())
    return VariantScan(stamp, manifest, None, time.monotonic())


def _expired(known: PolicyScan | VariantScan, retry_seconds: float) -> bool:
    return known.error is not None and time.monotonic() - known.checked >= retry_seconds


def renew(
    loaded: LoadedVariant, entry: VariantScan, policy: PolicyManifest | None
) -> LoadedVariant | None:
    """What is in memory, under the manifests that are on disk; its report may be new.

    Args:
        loaded: what is in memory.
        entry: the variant on disk.
        policy: the manifest of its policy there, as far as it can be read.

    Returns:
        None where its model, or what its policy says of observations and actions, has changed.
    """
    if loaded.stamp == entry.stamp:
        return loaded
    manifest, before = entry.manifest, loaded.policy
    if manifest is None or policy is None or manifest.model != loaded.manifest.model:
        return None
    if (policy.observation, policy.actions) != (before.observation, before.actions):
        return None
    return replace(loaded, policy=policy, manifest=manifest, stamp=entry.stamp)


def again(error: SlimqError | None, path: str) -> SlimqError:
    """A fresh error to raise, so that one that is kept does not gather tracebacks."""
    if isinstance(error, RepositoryError):
        return RepositoryError(error.path, error.problem)
    return RepositoryError(path, str(error))


def named(problem: SlimqError | OSError, path: str) -> SlimqError:
    """The problem as an error of the tree; the system's own get the path that they are about."""
    if isinstance(problem, SlimqError):
        return problem
    return RepositoryError(path, problem.strerror or str(problem))
