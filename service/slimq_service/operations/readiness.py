"""Readiness in metrics and in the log, whether or not anybody requests `/readyz`."""

from __future__ import annotations

import asyncio

import structlog

from slimq_service.metrics.service import Metrics
from slimq_service.operations.health import Lifecycle, is_ready
from slimq_service.variants.catalogue import Catalogue
from slimq_service.variants.snapshot import Key

PERIOD_SECONDS = 1.0
"""Interval of the updates, and thus the maximum age of other workers' gauges in a scrape."""


class ReadyMetrics:
    """Keeps the gauges up to date: ready, repository readable, and unshared series."""

    def __init__(self, catalogue: Catalogue, lifecycle: Lifecycle, metrics: Metrics) -> None:
        self._catalogue, self._lifecycle, self.metrics = catalogue, lifecycle, metrics
        self._missing: list[Key] = []
        self._log = structlog.get_logger(component="health")

    def update(self) -> None:
        """Sets the gauges; logs once which pinned variants are not in the repository."""
        catalogue = self._catalogue
        readable = catalogue.scan_error is None
        self.metrics.repository_readable.set(readable)
        self.metrics.ready.set(is_ready(catalogue, self._lifecycle))
        self.metrics.unshared_series.set(self.metrics.registry.unshared)
        if not readable:  # it is unknown whether they exist
            return
        policies = catalogue.scan.policies
        missing = [
            (policy, variant)
            for policy, variant in catalogue.residents.awaited()
            if policy not in policies or variant not in policies[policy].variants
        ]
        if missing != self._missing:
            for policy, variant in missing:
                self._log.error(
                    "pinned variant is not in the repository", policy=policy, variant=variant
                )
            self._missing = missing

    async def watch(self, seconds: float = PERIOD_SECONDS) -> None:
        """Updates them periodically, until cancelled."""
        while True:
            self.update()
            await asyncio.sleep(seconds)
