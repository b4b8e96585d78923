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
from slimq_service.metrics import Metrics
from slimq_service.model import LoadedVariant, Stamp
from slimq_service.scan import Key


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
