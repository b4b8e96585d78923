"""Variants in memory: the state of each, and which are evicted when they exceed the budget.

`Residents` is the only owner of that state; everything else reads it, and changes it through its
methods, all in the event loop.

The least recently used variant is evicted first, but never one that a request is using (its memory
would stay taken), a pinned one, or the one used last (a variant larger than the whole budget would
otherwise be loaded for every request). So variants in use, and one that is being loaded, can exceed
the budget.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import structlog

from slimq.core.errors import SlimqError
from slimq.core.manifest import PolicyManifest
from slimq_service.errors import ConflictError
from slimq_service.metrics.service import Metrics
from slimq_service.variants.loading import LoadedVariant
from slimq_service.variants.snapshot import Key, Scan, VariantScan, VariantStamp


@dataclass
class VariantState:
    """One variant's state in memory; changed by `Residents` alone.

    Attributes:
        loaded: the version in memory; it outlives a newer version that fails.
        error: why the version on disk cannot be served.
        error_stamp: the stamp of that version.
        error_time: when it failed, by the monotonic clock.
        unloaded: whether it was unloaded on request, and has not been loaded since.
        used: when it was last used, by the monotonic clock.
        task: the load in progress.
    """

    loaded: LoadedVariant | None = None
    error: SlimqError | None = None
    error_stamp: VariantStamp | None = None
    error_time: float = 0.0
    unloaded: bool = False
    used: float = 0.0
    task: asyncio.Task[LoadedVariant] | None = field(default=None, repr=False)

    def may_retry(self, stamp: VariantStamp, seconds: float) -> bool:
        """Whether to try a load: the last one did not fail, or failed long ago or for other files.

        Args:
            stamp: current stamp of the variant's files.
            seconds: time after which the same version is tried again.
        """
        if self.error is None or self.error_stamp != stamp:
            return True
        return time.monotonic() - self.error_time >= seconds


class Residents:
    """The states of all variants.

    Attributes:
        pinned: variants that stay in memory.
    """

    def __init__(
        self,
        metrics: Metrics,
        budget: int | None,
        pinned: frozenset[Key],
        retry_seconds: float = 0.0,
    ) -> None:
        """Starts without variants.

        Args:
            metrics: of the service.
            budget: bytes that variants may take, None for no limit.
            pinned: variants that stay in memory.
            retry_seconds: time after which a version that failed is tried again.
        """
        self.pinned = pinned
        self._states: dict[Key, VariantState] = {}
        self._readable = True
        self._metrics, self._budget, self._retry_seconds = metrics, budget, retry_seconds
        self._log = structlog.get_logger(component="residents")

    def state(self, policy: str, variant: str) -> VariantState:
        """A variant's state; an empty one for a variant that does not exist."""
        return self._states.get((policy, variant)) or VariantState()

    def can_answer(self, policy: str, variant: str) -> bool:
        """Whether a variant can answer, as far as is known: from memory, or once it is loaded."""
        state = self._states.get((policy, variant))
        if state is None:
            return False
        return state.loaded is not None or (self._readable and state.error is None)

    def awaited(self) -> list[Key]:
        """Pinned variants that are neither in memory nor known to be broken."""
        missing = []
        for key in sorted(self.pinned):
            state = self.state(*key)
            if state.loaded is None and state.error is None:
                missing.append(key)
        return missing

    def loaded(self) -> list[Key]:
        """The variants in memory."""
        return [key for key, state in self._states.items() if state.loaded is not None]

    def loads(self) -> list[asyncio.Task[LoadedVariant]]:
        """The loads in progress."""
        return [state.task for state in self._states.values() if state.task is not None]

    def check_unpinned(self, policy: str, variant: str) -> None:
        """Refuses a pinned variant.

        Raises:
            ConflictError: it is pinned.
        """
        if (policy, variant) in self.pinned:
            raise ConflictError("variant", "one that is not pinned", f"{policy}/{variant}")

    def update(self, scan: Scan) -> list[Key]:
        """Applies a scan: new, removed and changed variants.

        Returns:
            The variants to load now: changed ones in memory, pinned ones, and those whose last
            load failed, to see whether they are intact again. Others are loaded on first use.
        """
        self._readable = True
        found = dict(scan.entries())
        for key in [key for key in self._states if key not in found]:
            self.remove(key)
        return [key for key, entry in found.items() if self._update(key, entry, scan)]

    def mark_unreadable(self) -> None:
        """Records that the repository cannot be read: nothing can be loaded until `update`."""
        self._readable = False

    def add(self, key: Key, actions: Sequence[str] = ()) -> VariantState:
        """Adds a variant that is new in the repository.

        Args:
            key: its names.
            actions: of its policy, as far as they are known.
        """
        self._metrics.add(*key, actions)
        state = self._states[key] = VariantState()
        return state

    def remove(self, key: Key) -> None:
        """Removes a variant that is no longer in the repository."""
        self._drop(key)
        self._metrics.of(*key).broken.set(0)
        del self._states[key]

    def use(self, key: Key) -> VariantState | None:
        """Marks a variant as used now, and returns its state, None if it does not exist."""
        state = self._states.get(key)
        if state is not None:
            state.used = time.monotonic()
        return state

    def start(self, key: Key, task: asyncio.Task[LoadedVariant]) -> None:
        """Records that a variant is being loaded."""
        state = self._states[key]
        state.task, state.unloaded = task, False

    def finish(self, key: Key, task: asyncio.Task[LoadedVariant] | None) -> None:
        """Records that a load has ended, successfully or not."""
        state = self._states.get(key)
        if state is not None and state.task is task:
            state.task = None

    def put(self, key: Key, loaded: LoadedVariant) -> None:
        """Replaces the version in memory by a newly loaded one."""
        state = self._states.get(key)
        if state is None:  # it was removed from the repository during the load
            return
        state.loaded, state.error, state.used = loaded, None, time.monotonic()
        self._metrics.add(*key, loaded.policy.actions)
        measured = self._metrics.of(*key)
        measured.broken.set(0)
        measured.loaded.set(1)
        measured.memory_bytes.set(loaded.memory_bytes)

    def renew(self, key: Key, entry: VariantScan, policy: PolicyManifest | None) -> bool:
        """Replaces only the manifests of a model in memory, for example if its report is new.

        Args:
            key: of the variant.
            entry: the variant on disk.
            policy: the manifest of its policy on disk, if it can be read.

        Returns:
            False if nothing is in memory, or its model, or the policy's observations or actions
            have changed.
        """
        state = self._states[key]
        if state.loaded is None or entry.manifest is None or policy is None:
            return False
        loaded, manifest = state.loaded, entry.manifest
        if loaded.manifest is manifest and loaded.policy is policy:
            return True
        before = loaded.policy
        if manifest.model != loaded.manifest.model:
            return False
        if (policy.observation, policy.actions) != (before.observation, before.actions):
            return False
        state.loaded = replace(loaded, policy=policy, manifest=manifest)
        return True

    def fail(self, key: Key, error: SlimqError, stamp: VariantStamp, at: float) -> None:
        """Records that the version on disk cannot be served; the one in memory keeps serving.

        Args:
            key: of the variant.
            error: the reason; logged unless it is already known.
            stamp: of its files.
            at: the time of the failure, by the monotonic clock.
        """
        state = self._states.get(key)
        if state is None:  # it was removed from the repository while it was loaded
            return
        if state.error is None or str(state.error) != str(error):
            self._log.error(
                "variant broken",
                policy=key[0],
                variant=key[1],
                problem=str(error),
                still_serving=state.loaded.sha256[:12] if state.loaded else None,
            )
        state.error, state.error_stamp, state.error_time = error, stamp, at
        self._metrics.of(*key).broken.set(1)

    def unload(self, key: Key) -> None:
        """Drops a variant from memory on request; requests in progress keep its session."""
        if key in self._states:
            self._drop(key)
            self._states[key].unloaded = True

    def evict(self) -> int:
        """Drops variants that exceed the budget; returns how many."""
        if self._budget is None:
            return 0
        resident = {k: s.loaded for k, s in self._states.items() if s.loaded is not None}
        taken = sum(loaded.memory_bytes for loaded in resident.values())
        if taken <= self._budget:
            return 0
        by_use = sorted(resident, key=lambda key: self._states[key].used)
        evicted = 0
        for key in by_use[:-1]:
            loaded = resident[key]
            if taken <= self._budget:
                break
            if key in self.pinned or loaded.leases.count:
                continue
            self._drop(key)
            self._metrics.of(*key).evictions.inc()
            self._log.info(
                "variant evicted", policy=key[0], variant=key[1], memory_bytes=loaded.memory_bytes
            )
            taken -= loaded.memory_bytes
            evicted += 1
        return evicted

    def _update(self, key: Key, entry: VariantScan, scan: Scan) -> bool:
        """Applies one variant of a scan; returns whether to load it now."""
        policy = scan.policies[key[0]].manifest
        state = self._states.get(key) or self.add(key, policy.actions if policy is not None else ())
        wanted = key in self.pinned or state.error is not None
        to_load = False
        if entry.error is not None:
            self.fail(key, entry.error, entry.stamp, entry.checked)
        elif self.renew(key, entry, policy) or (
            state.loaded is None and (state.unloaded or not wanted)
        ):
            state.error = None
        else:
            to_load = state.task is None and state.may_retry(entry.stamp, self._retry_seconds)
        self._metrics.of(*key).broken.set(state.error is not None)
        return to_load

    def _drop(self, key: Key) -> None:
        self._states[key].loaded = None
        measured = self._metrics.of(*key)
        measured.loaded.set(0)
        measured.memory_bytes.set(0)
