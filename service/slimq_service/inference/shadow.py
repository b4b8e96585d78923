"""Shadow: a share of what others answered is also run through a second variant, and compared.

Clients notice nothing: the second variant runs in a thread of its own, at a lower priority where
the system has one for threads, after the answer was computed. It comes first where something has
to go: nothing is taken while requests wait for a thread, and what waits for the shadow is bounded.

Agreement is the share of the same greedy action; regret is what the shadow's action loses by the
Q-values of the variant that answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import structlog

from slimq.core.differences import find_differences
from slimq.core.errors import SlimqError
from slimq.core.observation import Observations
from slimq.core.qfunction import QFunction, QValues
from slimq_service.inference.run import join
from slimq_service.metrics.registry import Registry
from slimq_service.variants.catalogue import Catalogue
from slimq_service.variants.loading import LoadedVariant

WAITING_REQUESTS = 64
WAITING_BYTES = 16 * 2**20
"""What may wait for the shadow."""
NICENESS = 10
"""How much the shadow's thread gives way to others, as of nice(1)."""
DIFFERENCE_BUCKETS = tuple(10 ** (exponent / 2) for exponent in range(-10, 3))
"""1e-5 to 10, a factor of √10 apart, in units of Q-values."""
BUSY, FULL, FAILED = "busy", "full", "failed"

_LABELS = ("policy", "variant", "shadow")


class ShadowMetrics:
    """What the shadow found; `variant` is the one that answered."""

    def __init__(self, registry: Registry) -> None:
        self.observations = registry.counter(
            "slimq_shadow_observations", "Observations that the shadow looked at too", _LABELS
        )
        self.agreements = registry.counter(
            "slimq_shadow_agreements", "Observations for which it chose the same action", _LABELS
        )
        self.difference = registry.histogram(
            "slimq_shadow_q_difference",
            "Mean absolute difference of an observation's Q-values",
            _LABELS,
            DIFFERENCE_BUCKETS,
        )
        self.regret = registry.histogram(
            "slimq_shadow_regret",
            "What the shadow's action loses by the Q-values that were answered",
            _LABELS,
            DIFFERENCE_BUCKETS,
        )
        self.dropped = registry.counter(
            "slimq_shadow_dropped",
            "Requests that the shadow was to look at and did not, by reason",
            ("policy", "shadow", "reason"),
        )

    def add(self, policy: str, shadow: str, variants: Iterable[str]) -> None:
        """Initialises what is counted of a policy's shadow beside its other variants."""
        for reason in (BUSY, FULL, FAILED):
            self.dropped.labels(policy, shadow, reason)
        compared = (self.observations, self.agreements, self.difference, self.regret)
        for variant in variants:
            if variant != shadow:
                for family in compared:
                    family.labels(policy, variant, shadow)


@dataclass(frozen=True)
class _Item:
    answered: LoadedVariant
    shadow: str
    observations: Observations
    q_values: QValues


class Shadow:
    """Runs the second variants."""

    def __init__(
        self,
        catalogue: Catalogue,
        registry: Registry,
        busy: Callable[[], bool],
        largest_batch: int,
    ) -> None:
        """Makes the thread.

        Args:
            catalogue: where the variants are.
            registry: for its metrics.
            busy: whether requests wait, so that nothing is taken now.
            largest_batch: most observations that are computed together.
        """
        self._catalogue, self._busy, self._largest_batch = catalogue, busy, largest_batch
        self._metrics = ShadowMetrics(registry)
        self._waiting: deque[_Item] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "slimq-shadow", initializer=_give_way)
        self._log = structlog.get_logger(component="shadow")

    def offer(self, answered: LoadedVariant, observations: Observations, q_values: QValues) -> None:
        """Takes a share of what was answered, as the policy says.

        Args:
            answered: the variant that did.
            observations: `(batch, *shape)`.
            q_values: `(batch, actions)`, its answer.
        """
        shadow = answered.policy.shadow
        if shadow is None or shadow.variant == answered.manifest.name:
            return
        if random.random() >= shadow.share:
            return
        if self._busy():
            self._drop(answered.policy.name, shadow.variant, BUSY)
            return
        too_large = self._bytes + observations.nbytes > WAITING_BYTES
        if too_large or len(self._waiting) >= WAITING_REQUESTS:
            self._drop(answered.policy.name, shadow.variant, FULL)
            return
        self._waiting.append(_Item(answered, shadow.variant, observations, q_values))
        self._bytes += observations.nbytes
        self._wake.set()

    def add_series(self) -> None:
        """Initialises the series of all that may be compared now; in any thread."""
        for name, policy in self._catalogue.scan.policies.items():
            if policy.manifest is not None and policy.manifest.shadow is not None:
                self._metrics.add(name, policy.manifest.shadow.variant, policy.variants)

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._work(self._take())

    def close(self) -> None:
        """Ends the thread once its work is done; what waits is forgotten."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _take(self) -> list[_Item]:
        """The oldest, and those behind it that can be computed with it."""
        first = self._waiting[0]
        taken: list[_Item] = []
        size = 0
        while self._waiting:
            item = self._waiting[0]
            alike = item.shadow == first.shadow and item.answered.policy == first.answered.policy
            size += len(item.observations)
            if taken and not (alike and size <= self._largest_batch):
                break
            self._bytes -= item.observations.nbytes
            taken.append(self._waiting.popleft())
        return taken

    async def _work(self, items: list[_Item]) -> None:
        policy, name = items[0].answered.policy, items[0].shadow
        left = len(items)
        if not self._catalogue.scan.knows(policy.name, name):  # looking for it is the watcher's
            self._drop(policy.name, name, FAILED, len(items))
            return
        try:
            variant = await self._catalogue.get(policy.name, name)
            if variant.policy.observation != policy.observation:
                self._drop(policy.name, name, FAILED, len(items))
                return
            batches = [[item] for item in items] if not variant.joinable else [items]
            for batch in batches:
                await self._compare(variant, batch)
                left -= len(batch)
        except Exception as error:  # whatever it is, the next may go well, and nobody else waits
            if not isinstance(error, SlimqError):
                self._log.exception("shadow failed", policy=policy.name, shadow=name)
            self._drop(policy.name, name, FAILED, left)

    async def _compare(self, variant: LoadedVariant, items: list[_Item]) -> None:
        variant.leases.count += 1
        try:
            work = partial(_compute, variant.q_function, [item.observations for item in items])
            q_values = await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            variant.leases.count -= 1
        start = 0
        for item in items:
            stop = start + len(item.observations)
            self._count(item, q_values[start:stop])
            start = stop

    def _count(self, item: _Item, q_values: QValues) -> None:
        if not np.isfinite(q_values).all():  # one would spoil a histogram's sum for good
            self._drop(item.answered.policy.name, item.shadow, FAILED)
            return
        labels = item.answered.policy.name, item.answered.manifest.name, item.shadow
        found = find_differences(q_values, item.q_values)
        self._metrics.observations.labels(*labels).inc(len(q_values))
        self._metrics.agreements.labels(*labels).inc(int(found.agrees.sum()))
        regret = self._metrics.regret.labels(*labels)
        difference = self._metrics.difference.labels(*labels)
        for lost, error in zip(found.regrets, found.errors.mean(axis=1), strict=True):
            regret.observe(float(lost))
            difference.observe(float(error))

    def _drop(self, policy: str, shadow: str, reason: str, count: int = 1) -> None:
        self._metrics.dropped.labels(policy, shadow, reason).inc(count)


def _give_way() -> None:
    """Lowers the priority of the calling thread, where the system has one for threads."""
    if hasattr(os, "setpriority"):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _compute(q_function: QFunction, batch: list[Observations]) -> QValues:
    return q_function(join(batch))
