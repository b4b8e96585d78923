"""Costs of runs, as loading a variant measures them."""

from __future__ import annotations

from slimq_service.variants.cost import Cost


def make_cost(base: float, per_observation: float, largest: int = 64) -> Cost:
    """Seconds of a run as a straight line over the batch size."""
    return Cost.of({1: base + per_observation, largest: base + largest * per_observation})
