from __future__ import annotations

import numpy as np
import pytest

from players import balance, clumsy, pixels
from slimq.core.calibration import CalibrationSet
from slimq.core.environment import AtariPreprocessing, EnvironmentSpec
from slimq.core.errors import InvalidInputError
from slimq.core.observation import ObservationSpec
from slimq.core.seeds import COLLECTION
from slimq.environments.collection import (
    Transitions,
    collect_calibration,
    collect_states,
    collect_transitions,
)
from slimq.environments.rollout import play_episodes
from slimq.environments.vector import describe

CARTPOLE = EnvironmentSpec(id="CartPole-v1", max_episode_steps=60)
PONG = EnvironmentSpec(
    id="ALE/Pong-v5", preprocessing=AtariPreprocessing(), max_episode_steps=2_000
)
SEEDS = range(COLLECTION.start, COLLECTION.start + 1_000)


def test_states_have_the_requested_number_and_repeat() -> None:
    played = collect_states(CARTPOLE, clumsy, 101, epsilon=0.1, seeds=SEEDS, environments=4)
    again = collect_states(CARTPOLE, clumsy, 101, epsilon=0.1, seeds=SEEDS, environments=4)
    states = played.arrived
    assert states is played.present
    assert states.shape == (101, 4)
    assert states.dtype == np.float32
    np.testing.assert_array_equal(states, again.arrived)


def test_keeping_every_third_state_gives_every_third_of_the_same_play() -> None:
    every = collect_states(CARTPOLE, clumsy, 30, epsilon=0.1, seeds=SEEDS, environments=1)
    third = collect_states(
        CARTPOLE, clumsy, 10, epsilon=0.1, seeds=SEEDS, environments=1, keep_every=3
    )
    np.testing.assert_array_equal(third.arrived, every.arrived[::3])


def test_transitions_follow_one_another_until_an_episode_ends() -> None:
    played = collect_transitions(CARTPOLE, clumsy, 80, epsilon=0.1, seeds=SEEDS, environments=1)
    assert isinstance(played, Transitions)
    assert len(played) == 80
    assert played.terminated.any()
    for index in range(79):
        continues = np.array_equal(played.next_observations[index], played.observations[index + 1])
        assert continues != played.terminated[index]
    assert (played.rewards == 1.0).all()


def test_a_truncated_episode_is_not_terminated() -> None:
    played = collect_transitions(CARTPOLE, balance, 130, epsilon=0.0, seeds=SEEDS, environments=1)
    assert not played.terminated.any()
    assert not np.array_equal(played.next_observations[59], played.observations[60])


def test_actions_are_greedy_without_exploration_and_random_with_it() -> None:
    greedy = collect_transitions(CARTPOLE, clumsy, 60, epsilon=0.0, seeds=SEEDS)
    np.testing.assert_array_equal(greedy.actions, clumsy(greedy.observations).argmax(axis=1))
    explored = collect_transitions(CARTPOLE, clumsy, 60, epsilon=1.0, seeds=SEEDS)
    assert (explored.actions != clumsy(explored.observations).argmax(axis=1)).any()


def test_collection_and_episodes_explore_alike() -> None:
    actions: list[int] = []
    episodes = list(
        play_episodes(
            CARTPOLE,
            clumsy,
            SEEDS[:3],
            epsilon=0.3,
            environments=1,
            on_step=lambda trace: actions.extend(trace.actions.tolist()),
        )
    )
    steps = sum(episode.length for episode in episodes)
    played = collect_transitions(CARTPOLE, clumsy, steps, epsilon=0.3, seeds=SEEDS, environments=1)
    assert played.actions.tolist() == actions


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"steps": 0}, "steps"),
        ({"environments": 0}, "environments"),
        ({"keep_every": 0}, "keep_every"),
        ({"epsilon": 1.5}, "epsilon"),
        ({"seeds": [1], "environments": 2}, "seeds"),
        ({"seeds": [1], "environments": 1, "steps": 100}, "seeds"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(arguments: dict, field: str) -> None:
    given = {"steps": 4, "epsilon": 0.1, "seeds": SEEDS} | arguments
    with pytest.raises(InvalidInputError, match=f"^{field}: expected"):
        collect_states(CARTPOLE, clumsy, **given)


def test_calibration_without_a_stack_stores_states_and_q_values() -> None:
    observation = ObservationSpec(dtype="float32", shape=(4,))
    calibration = collect_calibration(CARTPOLE, observation, balance, 50)
    states = calibration.observations(observation)
    assert states.shape == (50, 4)
    np.testing.assert_array_equal(calibration.q_values, balance(states))
    again = collect_calibration(CARTPOLE, observation, balance, 50)
    assert again.to_bytes() == calibration.to_bytes()


def test_another_seed_offset_gives_different_states() -> None:
    observation = ObservationSpec(dtype="float32", shape=(4,))
    first, second = (
        collect_calibration(CARTPOLE, observation, balance, 20, seed_offset=offset)
        for offset in (0, 100)
    )
    assert not np.array_equal(first.frames, second.frames)


def test_a_thousand_pong_states_store_each_frame_once_within_two_megabytes() -> None:
    observation = describe(PONG).observation
    calibration = collect_calibration(PONG, observation, pixels, 1_000)
    content = calibration.to_bytes()
    assert len(content) <= 2_000_000
    assert len(calibration.frames) < 1_500
    assert len({frame.tobytes() for frame in calibration.frames}) == len(calibration.frames)
    states = CalibrationSet.from_bytes(content).observations(observation)
    assert states.shape == (1_000, 4, 84, 84)
    np.testing.assert_array_equal(pixels(states), calibration.q_values)
