from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import EnvironmentFailure, InvalidInputError
from slimq.core.observation import Observations
from slimq.core.qfunction import QValues
from slimq.core.seeds import COLLECTION, HELD_OUT, SELECTION
from slimq.recording.episode import Played, check_seed, disagreement, play_variant, replay

CARTPOLE = EnvironmentSpec(id="CartPole-v1", max_episode_steps=12)


def leaning(observations: Observations, /) -> QValues:
    """Pushes to the side to which the pole leans."""
    right = observations[:, 2] > 0
    return np.stack([~right, right], axis=1).astype(np.float32)


def played(q_values: list[list[float]]) -> Played:
    array = np.array(q_values, np.float32)
    return Played("one", array, array.argmax(axis=1), 0.0, terminated=True)


def test_greedy_actions_are_compared_while_both_episodes_run() -> None:
    left, right = [1.0, 0.0], [0.0, 1.0]
    first = played([left, left, right, right])
    second = played([left, right, right])
    assert disagreement([first, second]).tolist() == [False, True, False, False]
    assert disagreement([first]).tolist() == [False] * 4


def test_the_pictures_are_of_the_same_episode() -> None:
    seed = HELD_OUT.start
    episode = play_variant(CARTPOLE, "one", leaning, seed, epsilon=0.5)
    assert (len(episode), episode.terminated) == (12, False)
    assert (episode.greedy != episode.actions).any()  # half of the actions are random
    moments = [one for (one,) in replay(CARTPOLE, [episode], seed)]
    assert [one.return_ for one in moments] == [float(step) for step in range(13)]
    assert [one.ended for one in moments] == [False] * 12 + [True]
    assert moments[0].picture.shape == (400, 600, 3)
    assert not np.array_equal(moments[0].picture, moments[11].picture)


def test_an_episode_that_ends_first_shows_its_end() -> None:
    seed = HELD_OUT.start
    long = play_variant(CARTPOLE, "long", leaning, seed, epsilon=0.0)
    spec = CARTPOLE.model_copy(update={"max_episode_steps": 3})
    short = play_variant(spec, "short", leaning, seed, epsilon=0.0)
    ends = [(a.step, b.step, b.ended) for a, b in replay(CARTPOLE, [long, short], seed)]
    assert ends[2:5] == [(2, 2, False), (3, 3, True), (4, 3, True)]
    assert ends[-1] == (12, 3, True)


def test_another_return_than_before_is_a_failure() -> None:
    seed = HELD_OUT.start
    episode = play_variant(CARTPOLE, "one", leaning, seed, epsilon=0.0)
    wrong = dataclasses.replace(episode, return_=99.0)
    with pytest.raises(EnvironmentFailure, match="expected 99 as before, received 12"):
        list(replay(CARTPOLE, [wrong], seed))


def test_a_seed_is_of_a_known_range() -> None:
    for known in (HELD_OUT, SELECTION, COLLECTION):
        assert check_seed(known.start) == check_seed(known.start + known.size - 1) == known.name
    with pytest.raises(InvalidInputError, match="--seed: expected a seed within 3000000 to"):
        check_seed(HELD_OUT.start + HELD_OUT.size)
