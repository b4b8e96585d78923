from __future__ import annotations

import numpy as np

from players import balance
from slimq.core.seeds import COLLECTION
from slimq_compression.collector import STRIDE, PolicyCollector, seeds_of_call


def test_collection_goes_on_with_other_seeds_of_its_range() -> None:
    ranges = [seeds_of_call(number) for number in range(500)]
    assert len({seeds[0] for seeds in ranges[:400]}) == 400
    assert all(seeds[0] in COLLECTION and seeds[-1] in COLLECTION for seeds in ranges)
    assert min(len(seeds) for seeds in ranges) >= STRIDE


def test_two_calls_play_different_episodes_and_two_collectors_the_same(
    cartpole_repository,
) -> None:
    environment = cartpole_repository.policy("cartpole").environment
    first, second = PolicyCollector(environment), PolicyCollector(environment)
    states = [first.states(balance, 16, epsilon=0.1) for _ in range(2)]
    assert not np.array_equal(*states)
    np.testing.assert_array_equal(second.states(balance, 16, epsilon=0.1), states[0])
    assert len(second.transitions(balance, 20, epsilon=0.1).actions) == 20
