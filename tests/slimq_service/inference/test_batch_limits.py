from __future__ import annotations

import pytest

from costs import make_cost
from slimq_service.inference.batch_limits import BatchLimits


@pytest.mark.parametrize(
    ("observations", "seconds", "expected"), [(32, 1.0, 32), (8, 1.0, 8), (32, 5e-3, 4), (32, 0, 1)]
)
def test_a_batch_is_bounded_in_observations_and_time(
    observations: int, seconds: float, expected: int
) -> None:
    limits = BatchLimits(observations, 8, 1.0, batch_seconds=seconds)
    assert limits.largest_batch(make_cost(1e-3, 1e-3)) == expected


def test_a_batch_is_no_larger_than_pays_off() -> None:
    cost = make_cost(0.0, 1e-3)
    assert BatchLimits(1024, 8, 1.0).largest_batch(cost) == cost.best_batch
