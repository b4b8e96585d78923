"""Scans of the repository: the policies and variants on disk, and which of them are intact.

Scans use stat, not inotify, so that network mounts work. Files whose stamps have not changed are
not read again, except those of an explicit load.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from slimq.core.errors import NotFoundError, RepositoryError, SlimqError
from slimq.core.manifest import PolicyManifest, VariantManifest
from slimq.core.repository import VARIANT_FILE, VARIANTS, Repository
from slimq.core.stamp import FileStamp

Key = tuple[str, str]
"""The names of a policy and one of its variants."""


@dataclass(frozen=True)
class VariantStamp:
    """The stamps of the three files of a variant, None for each that cannot be read."""

    policy: FileStamp | None
    variant: FileStamp | None
    model: FileStamp | None = None


@dataclass(frozen=True)
class VariantScan:
    """A variant on disk: its manifest, or the error that keeps it from being served.

    `checked` is when its files were last read, by the monotonic clock.
    """

    stamp: VariantStamp
    manifest: VariantManifest | None
    error: SlimqError | None
    checked: float


@dataclass(frozen=True)
class PolicyScan:
    """A policy on disk: its manifest (the last good one if it cannot be read now) and the error."""

    stamp: FileStamp | None
    manifest: PolicyManifest | None
    error: SlimqError | None
    checked: float
    variants: Mapping[str, VariantScan]


@dataclass(frozen=True)
class Scan:
    """The repository as found by one scan."""

    policies: Mapping[str, PolicyScan] = field(default_factory=lambda: MappingProxyType({}))

    def knows(self, policy: str, variant: str) -> bool:
        """Whether the variant exists."""
        found = self.policies.get(policy)
        return found is not None and variant in found.variants

    def policy(self, name: str) -> PolicyScan:
        """A policy.

        Raises:
            NotFoundError: unknown policy.
        """
        if name not in self.policies:
            raise NotFoundError("policy", name, self.policies)
        return self.policies[name]

    def variant(self, policy: str, variant: str) -> VariantScan:
        """A variant.

        Raises:
            NotFoundError: unknown policy or variant.
        """
        variants = self.policy(policy).variants
        if variant not in variants:
            raise NotFoundError("variant", variant, variants)
        return variants[variant]

    def policy_manifest(self, name: str) -> PolicyManifest:
        """A policy's manifest.

        Raises:
            NotFoundError: unknown policy.
            RepositoryError: its manifest cannot be read.
        """
        found = self.policy(name)
        if found.manifest is None:
            raise fresh_error(found.error, name)
        return found.manifest

    def variant_manifest(self, policy: str, variant: str) -> VariantManifest:
        """A variant's manifest.

        Raises:
            NotFoundError: unknown policy or variant.
            RepositoryError: its manifest cannot be read.
        """
        found = self.variant(policy, variant)
        if found.manifest is None:
            raise fresh_error(found.error, f"{policy}/{variant}")
        return found.manifest

    def entries(self) -> Iterator[tuple[Key, VariantScan]]:
        """Every variant of every policy."""
        for policy, scanned in self.policies.items():
            for variant, entry in scanned.variants.items():
                yield (policy, variant), entry


def scan_repository(
    repository: Repository,
    previous: Scan,
    retry_seconds: float,
    reread: frozenset[Key] = frozenset(),
) -> Scan:
    """Scans the repository; entries whose stamps have not changed are taken from the last scan.

    Args:
        repository: the repository.
        previous: the last scan.
        retry_seconds: age after which a broken entry is read again, changed or not.
        reread: variants that are read and hashed with their policies, even if stamps are equal.

    Raises:
        RepositoryError: the repository cannot be listed, or all its policies are gone at once.
    """
    scanner = _Scanner(repository, previous, retry_seconds, reread)
    scan = scanner.scan()
    if any(not scan.knows(*key) for key, _ in previous.entries()):
        scan = scanner.scan()  # something is gone, and the rest may be about to follow
    return scan


@dataclass(frozen=True)
class _Scanner:
    """One scan; see `scan_repository` for the arguments."""

    repository: Repository
    previous: Scan
    retry_seconds: float
    reread: frozenset[Key]

    def scan(self) -> Scan:
        found = {}
        for name in self.repository.policies():
            scanned = self._policy(name, self.previous.policies.get(name))
            if scanned is not None:
                found[name] = scanned
        if self.previous.policies and not found:
            problem = f"holds no policies, but held {len(self.previous.policies)} before"
            raise RepositoryError(str(self.repository.root), problem)
        return Scan(MappingProxyType(found))

    def _policy(self, name: str, known: PolicyScan | None) -> PolicyScan | None:
        stamp = self.repository.policy_stamp(name)
        manifest, error, checked = None, None, time.monotonic()
        trusted = not any(policy == name for policy, _ in self.reread)
        if trusted and known is not None and known.stamp == stamp and not self._is_due(known):
            manifest, error, checked = known.manifest, known.error, known.checked
        else:
            try:
                manifest = self.repository.policy(name)
            except NotFoundError:
                return None
            except SlimqError as problem:
                error = problem
                manifest = known.manifest if known is not None else None
        before = known.variants if known is not None else {}
        try:
            listing = self.repository.variants(name)
        except NotFoundError:
            return None
        except SlimqError as problem:  # no reason to drop what may be serving
            listing, error = list(before), error or problem
        stamps = self._stamps(name, stamp, listing, before)
        variants = {}
        for variant, now in zip(listing, stamps, strict=True):
            scanned = self._variant((name, variant), now, before.get(variant))
            if scanned is not None:
                variants[variant] = scanned
        return PolicyScan(stamp, manifest, error, checked, MappingProxyType(variants))

    def _stamps(
        self,
        policy: str,
        policy_stamp: FileStamp | None,
        listing: Sequence[str],
        known: Mapping[str, VariantScan],
    ) -> list[VariantStamp]:
        """The stamps of a policy's variants now, with those of the models that are known."""
        manifests = [(name, known[name].manifest) for name in listing if name in known]
        models = [(name, manifest.model.path) for name, manifest in manifests if manifest]
        files = [(name, VARIANT_FILE) for name in listing] + models
        found = dict(zip(files, self.repository.stamps(policy, files), strict=True))
        model_stamps = {name: found[name, path] for name, path in models}
        return [
            VariantStamp(policy_stamp, found[name, VARIANT_FILE], model_stamps.get(name))
            for name in listing
        ]

    def _variant(
        self, key: Key, stamp: VariantStamp, known: VariantScan | None
    ) -> VariantScan | None:
        trusted = key not in self.reread
        if trusted and known is not None and known.stamp == stamp and not self._is_due(known):
            return known
        checked = time.monotonic()
        try:
            manifest = self.repository.variant(*key)
        except NotFoundError:
            return None
        except SlimqError as problem:
            return VariantScan(replace(stamp, model=None), None, problem, checked)
        (model,) = self.repository.stamps(key[0], [(key[1], manifest.model.path)])
        stamp = replace(stamp, model=model)
        try:
            self.repository.read_model(*key)
        except (SlimqError, OSError) as problem:
            place = f"{key[0]}/{VARIANTS}/{key[1]}/{manifest.model.path}"
            return VariantScan(stamp, manifest, as_slimq_error(problem, place), checked)
        return VariantScan(stamp, manifest, None, checked)

    def _is_due(self, known: PolicyScan | VariantScan) -> bool:
        """Whether to read a broken entry again."""
        age = time.monotonic() - known.checked
        return known.error is not None and age >= self.retry_seconds


def fresh_error(error: SlimqError | None, path: str) -> SlimqError:
    """A copy of a stored error to raise, so that the stored one gathers no tracebacks."""
    if isinstance(error, RepositoryError):
        return RepositoryError(error.path, error.problem)
    return RepositoryError(path, str(error))


def as_slimq_error(problem: SlimqError | OSError, path: str) -> SlimqError:
    """Returns a `SlimqError` unchanged, an `OSError` as a `RepositoryError` about this path."""
    if isinstance(problem, SlimqError):
        return problem
    return RepositoryError(path, problem.strerror or str(problem))
