from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from slimq.core.environment import AtariPreprocessing, EnvironmentSpec
from slimq.core.errors import InvalidInputError
from slimq.environments.vector import VectorEnvironment, describe, make_single

CARTPOLE = EnvironmentSpec(id="CartPole-v1", max_episode_steps=500)
PONG = EnvironmentSpec(id="ALE/Pong-v5", preprocessing=AtariPreprocessing())
STICKY = PONG.model_copy(update={"preprocessing": AtariPreprocessing(sticky_actions=0.25)})
SPECS = [
    pytest.param(CARTPOLE, id="cartpole"),
    pytest.param(PONG, id="pong"),
    pytest.param(STICKY, id="pong with sticky actions"),
]


def episode(spec, seed, beside, place, steps=25):
    """Observations and rewards of one episode, with others beside it."""
    vector = VectorEnvironment(spec, beside + 1, threads=1)
    seeds = [7_000 + index for index in range(beside + 1)]
    seeds[place] = seed
    observations = [vector.start(seeds)[place]]
    rewards = []
    choices = np.random.default_rng(seed)
    first = 2 if spec.preprocessing else 0  # Pong's paddle moves with 2 and 3
    for _ in range(steps):
        actions = np.zeros(beside + 1, dtype=np.int64)
        actions[place] = first + choices.integers(2)
        result = vector.step(actions)
        observations.append(result.observations[place])
        rewards.append(result.rewards[place])
        if result.ended[place]:
            break
        if result.ended.any():
            vector.restart(result.ended, [9] * int(result.ended.sum()))
    vector.close()
    return np.stack(observations), np.array(rewards)


@pytest.mark.parametrize("spec", SPECS)
def test_an_episode_does_not_depend_on_those_in_parallel(spec):
    alone = episode(spec, 42, 0, 0)
    for beside, place in ((1, 1), (4, 2)):
        company = episode(spec, 42, beside, place)
        np.testing.assert_array_equal(company[0], alone[0])
        np.testing.assert_array_equal(company[1], alone[1])


def test_actions_stick_where_preprocessing_says_so():
    assert (episode(STICKY, 42, 0, 0)[0] != episode(PONG, 42, 0, 0)[0]).any()


@pytest.mark.parametrize("name", ["repeat_action_probability", "no_such_argument"])
def test_arguments_that_the_games_do_not_take_are_refused_by_name(name):
    spec = PONG.model_copy(update={"kwargs": {name: 0.25}})
    with pytest.raises(InvalidInputError, match=rf"^environment\.kwargs: .*{name}"):
        VectorEnvironment(spec, 1, threads=1)


@pytest.mark.parametrize("spec", SPECS)
def test_restarting_one_environment_leaves_the_others_untouched(spec):
    plain, restarted = VectorEnvironment(spec, 3, threads=1), VectorEnvironment(spec, 3, threads=1)
    np.testing.assert_array_equal(plain.start([1, 2, 3]), restarted.start([1, 2, 3]))
    actions = np.array([0, 1, 0])
    for _ in range(4):
        expected = plain.step(actions).observations
        restarted.step(actions)
    after = restarted.restart(np.array([False, True, False]), [99])
    np.testing.assert_array_equal(after[[0, 2]], expected[[0, 2]])
    fresh = VectorEnvironment(spec, 1, threads=1)
    np.testing.assert_array_equal(after[1], fresh.start([99])[0])
    for _ in range(4):
        expected, result = plain.step(actions), restarted.step(actions)
        alone = fresh.step(actions[1:2])
        np.testing.assert_array_equal(result.observations[[0, 2]], expected.observations[[0, 2]])
        np.testing.assert_array_equal(result.observations[1], alone.observations[0])
    for vector in (plain, restarted, fresh):
        vector.close()


def test_a_fall_is_terminated_and_not_truncated():
    vector = VectorEnvironment(CARTPOLE, 1)
    vector.start([0])
    result = vector.step(np.array([0]))
    while not result.ended[0]:
        result = vector.step(np.array([0]))
    assert result.terminated[0]
    assert not result.truncated[0]
    vector.close()


@pytest.mark.parametrize("spec", SPECS)
def test_the_step_limit_truncates_and_does_not_terminate(spec):
    vector = VectorEnvironment(spec.model_copy(update={"max_episode_steps": 5}), 2, threads=1)
    vector.start([0, 1])
    for _ in range(4):
        assert not vector.step(np.array([0, 1])).ended.any()
    result = vector.step(np.array([0, 1]))
    assert result.truncated.all()
    assert not result.terminated.any()
    vector.close()


def test_the_step_limit_counts_from_each_restart():
    spec = CARTPOLE.model_copy(update={"max_episode_steps": 6})
    vector = VectorEnvironment(spec, 2)
    vector.start([0, 1])
    ended = []
    for step in range(9):
        if step == 3:
            vector.restart(np.array([False, True]), [5])
        result = vector.step(np.array([step % 2, step % 2]))
        ended.append(tuple(result.ended))
        if result.ended[0]:
            vector.restart(np.array([True, False]), [6])
    assert ended[5] == (True, False)
    assert ended[8] == (False, True)
    vector.close()


@pytest.mark.parametrize("spec", SPECS)
def test_observations_have_the_described_layout_and_are_the_callers_own(spec):
    observation, actions, _ = describe(spec)
    vector = VectorEnvironment(spec, 2, threads=1)
    first = vector.start([0, 1])
    kept = first.copy()
    assert first.shape == (2, *observation.shape)
    assert first.dtype == observation.numpy_dtype
    vector.step(np.array([1, 1]))
    np.testing.assert_array_equal(first, kept)
    assert len(actions) == (6 if spec.preprocessing else 2)
    vector.close()


@pytest.mark.parametrize("build", [make_single, describe, lambda spec: VectorEnvironment(spec, 1)])
def test_an_unknown_environment_is_refused_by_name(build):
    with pytest.raises(InvalidInputError, match=r"environment\.id: .*NoSuchGame-v0"):
        build(EnvironmentSpec(id="NoSuchGame-v0"))


def test_an_unknown_atari_game_is_refused_by_name():
    spec = EnvironmentSpec(id="ALE/NoSuchGame-v5", preprocessing=AtariPreprocessing())
    with pytest.raises(InvalidInputError, match="NoSuchGame"):
        VectorEnvironment(spec, 1)


@pytest.mark.parametrize("build", [describe, lambda spec: VectorEnvironment(spec, 1)])
def test_atari_preprocessing_is_refused_for_other_environments(build):
    spec = EnvironmentSpec(id="CartPole-v1", preprocessing=AtariPreprocessing())
    message = r"^environment\.preprocessing: expected a registered Atari game, received CartPole-v1"
    with pytest.raises(InvalidInputError, match=message):
        build(spec)


def test_wrong_arguments_of_an_environment_are_refused_by_name():
    with pytest.raises(InvalidInputError, match="no_such_argument"):
        make_single(EnvironmentSpec(id="CartPole-v1", kwargs={"no_such_argument": 1}))


def test_continuous_actions_are_refused():
    with pytest.raises(InvalidInputError, match="discrete actions"):
        describe(EnvironmentSpec(id="MountainCarContinuous-v0"))


class Counting(gymnasium.Env):
    """Its actions are 5, 6 and 7; it counts them and refuses others."""

    observation_space = gymnasium.spaces.Box(0, 10, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(3, start=5)

    def __init__(self, **arguments):
        self.arguments = arguments

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.counts = np.zeros(3, np.float32)
        return self.counts.copy(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.counts[action - 5] += 1
        return self.counts.copy(), float(action), False, False, {}


@pytest.fixture
def counting():
    gymnasium.register("slimq-tests/Counting-v0", entry_point=Counting)
    yield EnvironmentSpec(id="slimq-tests/Counting-v0")
    del gymnasium.registry["slimq-tests/Counting-v0"]


def test_an_environment_gets_its_own_numbers_of_actions(counting):
    described = describe(counting)
    assert (described.actions, described.action_start) == (["5", "6", "7"], 5)
    vector = VectorEnvironment(counting, 3)
    vector.start([1, 2, 3])
    result = vector.step(np.array([0, 1, 2]))
    assert result.rewards.tolist() == [5.0, 6.0, 7.0]
    assert result.observations.tolist() == np.eye(3).tolist()
    vector.close()
    assert [describe(spec).action_start for spec in (CARTPOLE, PONG)] == [0, 0]


def test_keyword_arguments_are_of_any_json_type(counting):
    arguments = {"list": [1, [2.5, "x"]], "none": None, "table": {"a": {"b": True}}, "number": 1}
    spec = counting.model_copy(update={"kwargs": arguments})
    again = EnvironmentSpec.model_validate_json(spec.model_dump_json())
    assert make_single(again).unwrapped.arguments == arguments
    VectorEnvironment(again, 2).close()
