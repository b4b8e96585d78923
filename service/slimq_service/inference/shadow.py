"""Shadow traffic: a share of requests also runs through a second variant, and is compared.

Clients notice nothing: the shadow runs in its own thread after the response was computed, at a
lower priority if the system supports thread priorities. It is the first to yield under load: no
requests are taken while others are queued for a thread, and the shadow's own queue is bounded.

Agreement is the share of observations with the same greedy action. Regret is the loss of the
shadow's action by the Q-values of the variant that served the request.
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
from slimq_service.inference.run import concatenate
from slimq_service.metrics.registry import Registry
from slimq_service.variants.catalogue import Catalogue
from slimq_service.variants.loading import LoadedVariant

MAX_QUEUED_REQUESTS = 64
MAX_QUEUED_BYTES = 16 * 2**20
"""Limits of the shadow's queue."""
NICENESS = 10
"""Niceness of the shadow's thread, as in nice(1)."""
DIFFERENCE_BUCKETS = tuple(10 ** (exponent / 2) for exponent in range(-10, 3))
"""1e-5 to 10, a factor of √10 apart, in units of Q-values."""
BUSY, FULL, FAILED = "busy", "full", "failed"

_LABELS = ("policy", "variant", "shadow")


class ShadowMetrics:
    """Results of the comparison; the label `variant` is the one that served the request."""

    def __init__(self, registry: Registry) -> None:
        self.observations = registry.counter(
            "slimq_shadow_observations", "Observations also run through the shadow", _LABELS
        )
        self.agreements = registry.counter(
            "slimq_shadow_agreements",
            "Observations for which the shadow chose the same action",
            _LABELS,
        )
        self.difference = registry.histogram(
            "slimq_shadow_q_difference",
            "Mean absolute difference between an observation's Q-values",
            _LABELS,
            DIFFERENCE_BUCKETS,
        )
        self.regret = registry.histogram(
            "slimq_shadow_regret",
            "Loss of the shadow's action in the Q-values of the variant that served the request",
            _LABELS,
            DIFFERENCE_BUCKETS,
        )
        self.dropped = registry.counter(
            "slimq_shadow_dropped",
            "Sampled requests that the shadow skipped, by reason",
            ("policy", "shadow", "reason"),
        )

    def add(self, policy: str, shadow: str, variants: Iterable[str]) -> None:
        """Initializes the series of a policy's shadow against its other variants."""
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
    """Runs shadow variants."""

    def __init__(
        self,
        catalogue: Catalogue,
        registry: Registry,
        busy: Callable[[], bool],
        max_batch: int,
    ) -> None:
        """Creates the thread.

        Args:
            catalogue: the variants.
            registry: the registry of its metrics.
            busy: whether requests are queued, so that the shadow must yield.
            max_batch: maximum number of observations in a batch.
        """
        self._catalogue, self._busy, self._max_batch = catalogue, busy, max_batch
        self._metrics = ShadowMetrics(registry)
        self._waiting: deque[_Item] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "slimq-shadow", initializer=_lower_priority)
        self._log = structlog.get_logger(component="shadow")

    def offer(self, answered: LoadedVariant, observations: Observations, q_values: QValues) -> None:
        """Queues a request for comparison, sampled with the policy's share.

        Args:
            answered: the variant that served the request.
            observations: `(batch, *shape)`.
            q_values: `(batch, actions)`, as returned to the client.
        """
        shadow = answered.policy.shadow
        if shadow is None or shadow.variant == answered.manifest.name:
            return
        if random.random() >= shadow.share:
            return
        if self._busy():
            self._drop(answered.policy.name, shadow.variant, BUSY)
            return
        too_large = self._bytes + observations.nbytes > MAX_QUEUED_BYTES
        if too_large or len(self._waiting) >= MAX_QUEUED_REQUESTS:
            self._drop(answered.policy.name, shadow.variant, FULL)
            return
        self._waiting.append(_Item(answered, shadow.variant, observations, q_values))
        self._bytes += observations.nbytes
        self._wake.set()

    def add_series(self) -> None:
        """Initializes the series of all current shadows; callable from any thread."""
        for name, policy in self._catalogue.scan.policies.items():
            if policy.manifest is not None and policy.manifest.shadow is not None:
                self._metrics.add(name, policy.manifest.shadow.variant, policy.variants)

    async def run(self) -> None:
        """Compares queued requests until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._work(self._take())

    def close(self) -> None:
        """Ends the thread once its current batch is done; the queue is discarded."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _take(self) -> list[_Item]:
        """Takes the oldest item, and those after it that fit in the same batch."""
        first = self._waiting[0]
        taken: list[_Item] = []
        size = 0
        while self._waiting:
            item = self._waiting[0]
            alike = item.shadow == first.shadow and item.answered.policy == first.answered.policy
            size += len(item.observations)
            if taken and not (alike and size <= self._max_batch):
                break
            self._bytes -= item.observations.nbytes
            taken.append(self._waiting.popleft())
        return taken

    async def _work(self, items: list[_Item]) -> None:
        policy, name = items[0].answered.policy, items[0].shadow
        left = len(items)
        if not self._catalogue.scan.knows(policy.name, name):  # the watcher will find it
            self._drop(policy.name, name, FAILED, len(items))
            return
        try:
            variant = await self._catalogue.get(policy.name, name)
            if variant.policy.observation != policy.observation:
                self._drop(policy.name, name, FAILED, len(items))
                return
            batches = [[item] for item in items] if not variant.batch_invariant else [items]
            for batch in batches:
                await self._compare(variant, batch)
                left -= len(batch)
        except Exception as error:  # no request depends on it, and the next batch may succeed
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
        if not np.isfinite(q_values).all():  # one would spoil the histogram's sum for good
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


def _lower_priority() -> None:
    """Lowers the priority of the calling thread, if the system supports that."""
    if hasattr(os, "setpriority"):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _compute(q_function: QFunction, batch: list[Observations]) -> QValues:
    return q_function(concatenate(batch))
