"""What is in memory, and what has to go when it takes more than it may.

The least recently used goes first (LRU), but nothing that a request is using, since its memory
would stay taken, nothing that is pinned, and not what was used last: a variant that is larger than
the whole budget would otherwise be loaded again for every request. So the budget can be exceeded by
what is in use, and, while a variant is being loaded, by that one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from slimq.core.errors import SlimqError
from slimq_service.errors import ConflictError
from slimq_service.metrics.service import Metrics
from slimq_service.variants.loading import LoadedVariant, Stamp
from slimq_service.variants.snapshot import Key


@dataclass
class VariantState:
    """What is known of one variant beside what is on disk.

    `loaded` outlives a newer version that fails; `unloaded` says that somebody had it dropped, and
    that it has not been loaded since; `used` is when it was last asked for, by the monotonic clock.
    """

    loaded: LoadedVariant | None = None
    error: SlimqError | None = None
    error_stamp: Stamp | None = None
    error_time: float = 0.0
    unloaded: bool = False
    used: float = 0.0
    task: asyncio.Task[LoadedVariant] | None = field(default=None, repr=False)

    def may_retry(self, stamp: Stamp, seconds: float) -> bool:
        """Whether a load is worth trying: nothing failed, or another version did, or long ago.

        Args:
            stamp: what the variant's files look like now.
            seconds: after which the same is tried again.
        """
        if self.error is None or self.error_stamp != stamp:
            return True
        return time.monotonic() - self.error_time >= seconds


class Residents:
    """The states of all variants.

    Attributes:
        states: by policy and variant.
        pinned: what stays in memory.
    """

    def __init__(self, metrics: Metrics, budget: int | None, pinned: frozenset[Key]) -> None:
        self.states: dict[Key, VariantState] = {}
        self.pinned = pinned
        self._metrics, self._budget = metrics, budget
        self._log = structlog.get_logger(component="residents")

    def state(self, policy: str, variant: str) -> VariantState:
        """What is in memory for a variant."""
        return self.states.get((policy, variant)) or VariantState()

    def can_answer(self, policy: str, variant: str) -> bool:
        """Whether a variant can, as far as is known: from memory, or once it is loaded."""
        state = self.states.get((policy, variant))
        return state is not None and (state.loaded is not None or state.error is None)

    def awaited(self) -> list[Key]:
        """What is pinned and neither in memory nor known to be broken."""
        missing = []
        for key in sorted(self.pinned):
            state = self.states.get(key)
            if state is None or (state.loaded is None and state.error is None):
                missing.append(key)
        return missing

    def check_unpinned(self, policy: str, variant: str) -> None:
        """Refuses to let go of what is pinned.

        Raises:
            ConflictError: it is.
        """
        if (policy, variant) in self.pinned:
            raise ConflictError("variant", "one that is not pinned", f"{policy}/{variant}")

    def appear(self, key: Key, actions: Sequence[str]) -> VariantState:
        """A variant that is new in the repository, of a policy with these actions."""
        self._metrics.appear(*key, actions)
        state = self.states[key] = VariantState()
        return state

    def disappear(self, key: Key) -> None:
        """A variant that has gone from the repository."""
        self.drop(key)
        self._metrics.of(*key).broken.set(0)
        del self.states[key]

    def put(self, key: Key, loaded: LoadedVariant) -> None:
        """Takes in a version; one that was there before is replaced."""
        state = self.states.get(key)
        if state is None:  # it has gone from the repository while it was loaded
            return
        state.loaded, state.error, state.used = loaded, None, time.monotonic()
        self._metrics.appear(*key, loaded.policy.actions)
        measured = self._metrics.of(*key)
        measured.broken.set(0)
        measured.loaded.set(1)
        measured.memory_bytes.set(loaded.memory_bytes)

    def fail(self, key: Key, error: SlimqError, stamp: Stamp, at: float) -> None:
        """What is on disk cannot be served; what is in memory goes on serving.

        Args:
            key: of the variant.
            error: why; it is logged where it is not the one that is known.
            stamp: what its files look like.
            at: when that was found, by the monotonic clock.
        """
        state = self.states.get(key)
        if state is None:  # it has gone from the repository while it was loaded
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

    def drop(self, key: Key) -> None:
        """Lets go of a version; requests under way keep what they have."""
        self.states[key].loaded = None
        measured = self._metrics.of(*key)
        measured.loaded.set(0)
        measured.memory_bytes.set(0)

    def evict(self) -> int:
        """Drops what has to go; answers how many that were."""
        if self._budget is None:
            return 0
        resident = {k: s.loaded for k, s in self.states.items() if s.loaded is not None}
        taken = sum(loaded.memory_bytes for loaded in resident.values())
        if taken <= self._budget:
            return 0
        by_use = sorted(resident, key=lambda key: self.states[key].used)
        evicted = 0
        for key in by_use[:-1]:
            loaded = resident[key]
            if taken <= self._budget:
                break
            if key in self.pinned or loaded.leases.count:
                continue
            self.drop(key)
            self._metrics.of(*key).evictions.inc()
            self._log.info(
                "variant evicted", policy=key[0], variant=key[1], memory_bytes=loaded.memory_bytes
            )
            taken -= loaded.memory_bytes
            evicted += 1
        return evicted
