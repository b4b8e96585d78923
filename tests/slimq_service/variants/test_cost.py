from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from slimq.core.observation import ObservationSpec
from slimq_service.variants.cost import Cost, measure


def test_what_lies_between_measured_batches_is_interpolated_and_beyond_in_proportion() -> None:
    cost = Cost.of({1: 3.0, 2: 4.0, 4: 8.0})
    assert [cost.seconds(batch) for batch in (1, 2, 3, 4, 8)] == [3, 4, 6, 8, 16]


@pytest.mark.parametrize(
    ("measured", "best"),
    [
        ({1: 1.0, 2: 2.0, 4: 4.0}, 4),  # a batch costs nothing, and saves dispatches
        ({1: 1.0, 2: 1.1, 4: 1.3, 8: 1.7}, 8),  # most of a run is its start
        ({1: 1.0, 2: 1.2, 4: 2.2, 8: 4.2}, 8),  # what is little may be noise
        ({1: 1.0, 2: 1.2, 4: 4.0, 8: 8.0}, 2),  # more than fits a cache
        ({1: 1e-6, 2: 2e-6, 4: 4e-6, 8: 9e-5}, 4),  # a dispatch costs more than the run
    ],
)
def test_the_best_batch_is_the_largest_in_which_an_observation_costs_hardly_more_than_in_any(
    measured: dict[int, float], best: int
) -> None:
    cost = Cost.of(measured)
    assert cost.best_batch == best
    assert cost.per_observation == pytest.approx(measured[best] / best)


def test_every_power_of_two_is_warmed_up_and_measured() -> None:
    batches: list[int] = []

    def q_function(observations: Any, /) -> Any:
        batches.append(len(observations))
        time.sleep(0.002 + 0.001 * len(observations))
        return np.zeros((len(observations), 2), np.float32)

    cost = measure(q_function, ObservationSpec(dtype="float32", shape=(4,)), 12)
    assert set(batches) == {1, 2, 4, 8, 12}
    assert all(batches.count(size) >= 2 for size in set(batches))
    assert len(cost.table) == 12
    assert cost.seconds(1) < cost.seconds(4) < cost.seconds(12) < cost.seconds(64)
