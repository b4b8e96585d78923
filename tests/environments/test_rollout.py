from __future__ import annotations

import hashlib

import numpy as np
import pytest

from players import balance, clumsy, pixels
from slimq.core.conditions.catalogue import CONDITIONS, Condition
from slimq.core.conditions.passage import Situation
from slimq.core.environment import AtariPreprocessing, EnvironmentSpec
from slimq.core.errors import InvalidInputError
from slimq.core.seeds import exploration_generator
from slimq.environments.rollout import StepTrace, play_episodes, random_returns
from slimq.environments.vector import VectorEnvironment, describe

CARTPOLE = EnvironmentSpec(id="CartPole-v1", max_episode_steps=60)
PONG = EnvironmentSpec(id="ALE/Pong-v5", preprocessing=AtariPreprocessing(), max_episode_steps=40)
SEEDS = [3_000_000 + index for index in range(7)]


def play(spec, q_function, environments, epsilon=0.1, seeds=SEEDS):
    episodes = play_episodes(
        spec, q_function, seeds, epsilon=epsilon, environments=environments, threads=1
    )
    return sorted(episodes, key=lambda episode: episode.seed)


@pytest.mark.parametrize("q_function", [balance, clumsy])
@pytest.mark.parametrize("environments", [2, 5, 16])
def test_cartpole_episodes_do_not_depend_on_the_number_of_environments(q_function, environments):
    alone = play(CARTPOLE, q_function, 1)
    assert [episode.seed for episode in alone] == SEEDS
    assert play(CARTPOLE, q_function, environments) == alone


@pytest.mark.parametrize("environments", [2, 7])
def test_pong_episodes_do_not_depend_on_the_number_of_environments(environments):
    alone = play(PONG, pixels, 1)
    assert play(PONG, pixels, environments) == alone
    assert len({episode.trajectory for episode in alone}) > 1


def test_the_step_limit_truncates_and_a_fall_terminates():
    capped = play(CARTPOLE, balance, 4, epsilon=0.0)
    assert {(e.length, e.terminated, e.return_) for e in capped} == {(60, False, 60.0)}
    fallen = play(CARTPOLE, clumsy, 4, epsilon=0.0)
    assert all(e.terminated and e.length < 60 for e in fallen)


def test_pong_ends_at_the_step_limit():
    assert {(e.length, e.terminated) for e in play(PONG, pixels, 3, seeds=SEEDS[:3])} == {
        (40, False)
    }


def test_exploration_is_the_generator_of_the_episode_drawn_in_the_documented_order():
    seed, epsilon = SEEDS[0], 0.3
    vector, generator = VectorEnvironment(CARTPOLE, 1), exploration_generator(SEEDS[0])
    observations, actions, ended = vector.start([seed]), [], False
    while not ended:
        action = int(balance(observations)[0].argmax())
        if generator.random() < epsilon:
            action = int(generator.integers(2))
        actions.append(action)
        result = vector.step(np.array([action]))
        observations, ended = result.observations, bool(result.ended[0])
    vector.close()
    (episode,) = play(CARTPOLE, balance, 1, epsilon=epsilon, seeds=[seed])
    assert episode.length == len(actions)
    assert episode.trajectory == hashlib.sha256(np.array(actions, "<i4").tobytes()).hexdigest()


def test_only_episodes_in_progress_reach_the_q_function():
    batches: list[int] = []

    def counted(observations, /):
        batches.append(len(observations))
        return clumsy(observations)

    episodes = play(CARTPOLE, counted, 4)
    assert sum(batches) == sum(episode.length for episode in episodes)
    assert max(batches) == 4
    assert batches[-1] < 4


def test_the_trace_gives_every_step_of_every_episode_once():
    traces: list[StepTrace] = []
    episodes = list(play_episodes(CARTPOLE, clumsy, SEEDS, environments=3, on_step=traces.append))
    for episode in episodes:
        rows = [(t, i) for t in traces for i in np.flatnonzero(t.seeds == episode.seed)]
        assert [t.steps[i] for t, i in rows] == list(range(episode.length))
        actions = np.array([t.actions[i] for t, i in rows], "<i4")
        assert hashlib.sha256(actions.tobytes()).hexdigest() == episode.trajectory
        for trace, row in rows:
            expected = clumsy(trace.observations[row : row + 1])[0]
            np.testing.assert_array_equal(trace.q_values[row], expected)


def test_random_returns_are_in_seed_order_and_repeat():
    first = random_returns(CARTPOLE, 2, SEEDS)
    assert first == random_returns(CARTPOLE, 2, SEEDS)
    assert random_returns(CARTPOLE, 2, SEEDS[::-1]) == first[::-1]
    assert len(set(first)) > 1


def test_without_seeds_there_are_no_episodes():
    assert list(play_episodes(CARTPOLE, balance, [])) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 1.5}, "epsilon: expected a number from 0 to 1, received 1.5"),
        ({"environments": 0}, "environments: expected at least 1, received 0"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        list(play_episodes(CARTPOLE, balance, SEEDS, **arguments))


def test_the_environments_are_freed_when_the_caller_stops_early(monkeypatch):
    closed: list[bool] = []
    monkeypatch.setattr(VectorEnvironment, "close", lambda self: closed.append(True))
    episodes = play_episodes(CARTPOLE, clumsy, SEEDS)
    next(episodes)
    episodes.close()
    assert closed == [True]


OWN = {"noise": 0.2, "bias": 0.2, "quantized": 0.5, "shift": 5, "blur": 1, "delayed": 2}
"""Strengths besides a half that change how these policies act."""
LEVELS = {"noise": 90, "brightness": 60, "quantized": 70, "started": 12}
CONDITIONED = [
    *((CARTPOLE, name) for name, row in CONDITIONS.items() if "vectors" in row.kinds),
    *((PONG, name) for name in ("noise", "lost", "sticky")),
]


def situation_of(spec, name, strength=None):
    observation = describe(spec).observation
    if strength is None:
        strength = OWN.get(name, 0.5)
        if name in LEVELS and (spec is PONG or name == "started"):
            strength = LEVELS[name]
    spread = None if spec is PONG else (1.0,) * 4
    actions = 6 if spec is PONG else 2
    return Situation(Condition(name=name, strength=strength), spec, observation, actions, spread)


def play_under(situation, q_function, environments, seeds=SEEDS, **options):
    episodes = play_episodes(
        situation.played,
        q_function,
        seeds,
        environments=environments,
        threads=1,
        begin=situation.begin,
        **options,
    )
    return sorted(episodes, key=lambda episode: episode.seed)


@pytest.mark.parametrize(("spec", "name"), CONDITIONED)
def test_disturbed_episodes_do_not_depend_on_the_number_of_environments(spec, name):
    situation = situation_of(spec, name)
    q_function = pixels if spec is PONG else balance
    seeds = SEEDS[:3] if spec is PONG else SEEDS
    alone = play_under(situation, q_function, 1, seeds)
    for environments in (2, 16):
        assert play_under(situation, q_function, environments, seeds[::-1]) == alone


@pytest.mark.parametrize(("spec", "name"), CONDITIONED)
def test_a_condition_changes_what_is_seen_or_done_and_strength_0_nothing(spec, name):
    q_function = pixels if spec is PONG else balance

    def observe(situation):
        seen = []
        episodes = play_under(
            situation, q_function, 2, SEEDS[:3], on_step=lambda t: seen.append(t.observations)
        )
        return episodes, b"".join(np.ascontiguousarray(o).tobytes() for o in seen)

    seen = []
    undisturbed = list(
        play_episodes(spec, q_function, SEEDS[:3], environments=2, threads=1,
                      on_step=lambda t: seen.append(t.observations))
    )  # fmt: skip
    plain = b"".join(np.ascontiguousarray(o).tobytes() for o in seen)
    assert observe(situation_of(spec, name, 0)) == (
        sorted(undisturbed, key=lambda episode: episode.seed),
        plain,
    )
    assert observe(situation_of(spec, name))[1] != plain


def test_the_trajectory_is_of_the_actions_that_were_chosen():
    chosen = {}
    situation = situation_of(CARTPOLE, "sticky", 1)
    traces = []
    episodes = play_under(situation, balance, 2, SEEDS[:2], on_step=traces.append)
    for trace in traces:
        for seed, action in zip(trace.seeds.tolist(), trace.actions.tolist(), strict=True):
            chosen.setdefault(seed, []).append(action)
    for episode in episodes:
        actions = np.array(chosen[episode.seed], "<i4")
        assert episode.trajectory == hashlib.sha256(actions.tobytes()).hexdigest()
        assert episode.length < 15, "the pole did not fall, although it is pushed to one side"


def test_sticky_actions_of_pong_are_those_of_the_emulator():
    emulated = AtariPreprocessing(sticky_actions=0.5)
    spec = PONG.model_copy(update={"preprocessing": emulated})
    found = play_under(situation_of(PONG, "sticky"), pixels, 2, SEEDS[:2], epsilon=0.1)
    assert found == play(spec, pixels, 2, seeds=SEEDS[:2])
