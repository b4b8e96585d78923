from __future__ import annotations

import numpy as np
import pytest

from players import balance, pixels
from slimq.core.conditions.catalogue import Condition
from slimq.core.environment import AtariPreprocessing, EnvironmentSpec
from slimq.core.observation import FrameStack, ObservationSpec
from slimq.core.repository import Repository
from slimq.core.seeds import COLLECTION
from slimq_compression.collector import (
    STRIDE,
    PolicyCollector,
    RecordedCollector,
    make_collector,
    seeds_of_call,
)
from slimq_compression.source import load_source

DELAYED = Condition(name="delayed", strength=1)
NOISE = Condition(name="noise", strength=0.1)
STICKY = Condition(name="sticky", strength=0.9)


@pytest.fixture
def collector(cartpole_repository: Repository) -> PolicyCollector:
    source = load_source(cartpole_repository, "cartpole")
    made = make_collector(source.manifest, source.calibration)
    assert isinstance(made, PolicyCollector)
    return made


def test_collection_goes_on_with_other_seeds_of_its_range() -> None:
    ranges = [seeds_of_call(number) for number in range(500)]
    assert len({seeds[0] for seeds in ranges[:400]}) == 400
    assert all(seeds[0] in COLLECTION and seeds[-1] in COLLECTION for seeds in ranges)
    assert min(len(seeds) for seeds in ranges) >= STRIDE


def test_two_calls_play_different_episodes_and_two_collectors_the_same(
    collector: PolicyCollector, cartpole_repository: Repository
) -> None:
    environment = cartpole_repository.policy("cartpole").environment
    second = PolicyCollector(environment, collector.observation, 2, collector.spread)
    for conditions in ((), (NOISE, DELAYED)):
        first = [
            collector.states(balance, 16, epsilon=0.1, conditions=conditions) for _ in range(2)
        ]
        assert not np.array_equal(first[0].arrived, first[1].arrived)
        again = second.states(balance, 16, epsilon=0.1, conditions=conditions)
        np.testing.assert_array_equal(again.arrived, first[0].arrived)
        second.calls += 1
    assert len(second.transitions(balance, 20, epsilon=0.1).actions) == 20


def test_half_of_the_episodes_are_disturbed_each_by_one_condition(
    collector: PolicyCollector,
) -> None:
    played = collector.states(balance, 400, epsilon=0.1, conditions=(NOISE, DELAYED))
    arrived = played.arrived.reshape(50, 8, 4)
    present = played.present.reshape(50, 8, 4)
    same = [bool((arrived[:, slot] == present[:, slot]).all()) for slot in range(8)]
    assert same == [True, False] * 4
    delayed = [slot for slot in range(8) if (arrived[1:, slot] == present[:-1, slot]).mean() > 0.9]
    assert len(delayed) == 2
    assert set(delayed) <= {1, 3, 5, 7}


def test_transitions_under_conditions_are_of_what_arrives_and_is_chosen(
    collector: PolicyCollector,
) -> None:
    played = collector.transitions(balance, 400, epsilon=0.0, conditions=(NOISE,))
    np.testing.assert_array_equal(played.actions, balance(played.observations).argmax(axis=1))
    disturbed = (played.observations != played.present).any(axis=1)
    assert disturbed.reshape(50, 8).all(axis=0).tolist() == [False, True] * 4
    followed = played.next_observations.reshape(50, 8, 4)[:-1, 1]
    onward = (followed == played.observations.reshape(50, 8, 4)[1:, 1]).all(axis=1)
    assert onward.mean() > 0.9  # all but where an episode ended


def test_games_repeat_actions_themselves_in_environments_of_their_own() -> None:
    stacked = ObservationSpec(
        dtype="uint8", shape=(4, 84, 84), low=0, high=255, stack=FrameStack(count=4)
    )
    environment = EnvironmentSpec(id="ALE/Pong-v5", preprocessing=AtariPreprocessing())
    played = PolicyCollector(environment, stacked, 6, None).states(
        pixels, 120, epsilon=0.0, conditions=(STICKY, DELAYED)
    )
    assert len(played) == 120
    sticky, rest = played.arrived[:30], played.arrived[30:]
    np.testing.assert_array_equal(sticky, played.present[:30])
    assert (rest != played.present[30:]).any()


def test_recorded_states_are_drawn_as_they_are(cartpole_repository: Repository) -> None:
    source = load_source(cartpole_repository, "cartpole")
    collector = RecordedCollector(source.manifest.observation, source.calibration)
    drawn = collector.states(balance, 9, epsilon=0.1, conditions=(NOISE,))
    recorded = source.calibration.observations(source.manifest.observation)
    np.testing.assert_array_equal(drawn.arrived, drawn.present)
    assert all((recorded == state).all(axis=1).any() for state in drawn.arrived)
