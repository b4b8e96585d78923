from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import EnvironmentFailure, InvalidInputError
from slimq.environments.guarded import GuardedEnvironment
from slimq.environments.vector import VectorEnvironment, describe

Game = Callable[..., str]


def play(spec: EnvironmentSpec, steps: int = 5) -> None:
    vector = VectorEnvironment(spec, 2)
    vector.start([7, 8])
    for _ in range(steps):
        vector.step(np.array([0, 1]))
    vector.close()


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"init": "raise ValueError('no map')"}, r"creation: constructor: ValueError: no map"),
        ({"make": "return Game(1 / 0)"}, r"creation: constructor: ZeroDivisionError: division"),
        ({"make": "return 5"}, r"creation: return value: expected a gymnasium.Env, received a int"),
        (
            {"init": "self.observation_space = None"},
            r"creation: observation_space: expected a gymnasium space, received a NoneType",
        ),
        ({"reset": "raise KeyError('x')"}, r"episode of seed 7, reset: reset\(\): KeyError: 'x'"),
        ({"reset": "raise SystemExit(3)"}, r"episode of seed 7, reset: reset\(\): SystemExit: 3"),
        (
            {"reset": "return self.observe()"},
            r"reset\(\): expected \(observation, info\), rec",
        ),
        (
            {"reset": "return self.observe(), 1"},
            r"reset: info: expected a dictionary, received a",
        ),
        (
            {"step": "raise RuntimeError"},
            r"seed 7, step 2: step\(\): RuntimeError \(game",
        ),
        ({"step": "observation[1] = np.nan"}, r"step 2: observation\[1\]: .*finite.*received nan"),
        ({"step": "observation[0] = np.inf"}, r"step 2: observation\[0\]: .*finite.*received inf"),
        (
            {"step": "observation = observation[:2]"},
            r"observation: expected shape \(3,\), rec",
        ),
        ({"step": "observation = None"}, r"observation: expected numbers, received a NoneType"),
        ({"step": "reward = float('nan')"}, r"step 2: reward: .*finite float32, received nan"),
        ({"step": "reward = None"}, r"step 2: reward: expected a number, received None \(NoneType"),
        ({"step": "reward = 'much'"}, r"step 2: reward: expected a number, received 'much' \(str"),
        ({"step": "reward = np.ones(2)"}, r"step 2: reward: expected a number, received array"),
        (
            {"step": "reward = 1e300"},
            r"reward: expected a finite float32, received 1e\+300",
        ),
        ({"step": "terminated = 1"}, r"step 2: terminated: expected a bool, received 1 \(int\)"),
        ({"step": "truncated = None"}, r"step 2: truncated: expected a bool, received None"),
        ({"step": "info = None"}, r"step 2: info: expected a dictionary, received a NoneType"),
        (
            {"answer": "return observation, reward, terminated, info"},
            r"step 0: step\(\): expected .*, received a tuple of 4, the form of gym before 0.26",
        ),
        ({"answer": "return None"}, r"step 0: step\(\): expected .*, received a NoneType"),
        ({"step": "raise GeneratorExit"}, r"step 2: step\(\): GeneratorExit \(game\.py:\d+\)"),
        ({"reset": "raise Stop('hm')"}, r"reset: reset\(\): Stop: hm \(game\.py:\d+\)"),
        ({"init": "raise Stop('hm')"}, r"creation: constructor: Stop: hm \(game\.py:\d+\)"),
        ({"close": "raise Stop('hm')"}, r"close: close\(\): Stop: hm \(game\.py:\d+\)"),
        ({"reset": "raise Mute"}, r"reset: reset\(\): Mute \(game\.py:\d+\)"),
        (
            {"step": "reward = Mute()"},
            r"reward: expected a number, received one whose repr raises Stop \(Mute\)",
        ),
        ({"step": "terminated = Mute()"}, r"terminated: expected a bool, received one whose repr"),
        ({"step": "observation = Mute()"}, r"step 2: observation: Stop \(game\.py:\d+\)"),
        ({"close": "raise OSError('gone')"}, r"close: close\(\): OSError: gone"),
    ],
)
def test_a_fault_is_one_line_with_the_environment_the_step_and_the_field(
    game: Game, faults: dict[str, str], message: str
) -> None:
    with pytest.raises(EnvironmentFailure, match=rf"^game\.py:make: .*{message}") as raised:
        play(EnvironmentSpec(id=game(**faults)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("place", ["init", "reset", "step", "close"])
def test_an_exception_names_the_line_that_raised_it(game: Game, place: str) -> None:
    identifier = game(**{place: "raise ValueError('first\\nsecond')"})
    with pytest.raises(EnvironmentFailure, match=r"ValueError: first \(game\.py:\d+\)$"):
        play(EnvironmentSpec(id=identifier))


def test_an_interruption_is_no_fault_of_the_environment(game: Game) -> None:
    with pytest.raises(KeyboardInterrupt):
        play(EnvironmentSpec(id=game(step="raise KeyboardInterrupt")))


def test_a_step_limit_above_the_environments_own_is_refused() -> None:
    above = EnvironmentSpec(id="CartPole-v1", max_episode_steps=501)
    message = r"^environment\.max_episode_steps: expected at most 500, the limit of CartPole-v1"
    for use in (describe, lambda spec: VectorEnvironment(spec, 1)):
        with pytest.raises(InvalidInputError, match=message):
            use(above)
    raised = above.model_copy(update={"kwargs": {"max_episode_steps": 600}})
    for allowed in (raised, above.model_copy(update={"max_episode_steps": 500})):
        assert describe(allowed).actions == ["0", "1"]


def test_a_failure_in_close_does_not_hide_the_first_one(game: Game) -> None:
    identifier = game(step="raise RuntimeError('first')", close="raise RuntimeError('second')")
    vector = VectorEnvironment(EnvironmentSpec(id=identifier), 2)
    vector.start([1, 2])
    for _ in range(2):
        vector.step(np.array([0, 0]))
    with pytest.raises(EnvironmentFailure, match="first"):
        vector.step(np.array([0, 0]))
    vector.close()


def test_a_failure_when_closing_after_a_description_is_reported(game: Game) -> None:
    with pytest.raises(EnvironmentFailure, match="close"):
        describe(EnvironmentSpec(id=game(close="raise RuntimeError")))


@pytest.mark.parametrize(
    "fault",
    [
        "reward = np.float64(2.0)",
        "reward = True",
        "reward = np.array(2.0)",
        "terminated = np.bool_(False)",
        "terminated = np.array(False)",
        "observation = observation.astype(np.float64)",
        "observation = observation.tolist()",
    ],
)
def test_what_means_the_same_is_accepted(game: Game, fault: str) -> None:
    play(EnvironmentSpec(id=game(step=fault)))


def test_the_environment_gets_the_seed_and_its_own_numbers_of_actions(game: Game) -> None:
    identifier = game(init="self.action_space = Discrete(2, start=4)", step="reward = action")
    environment = GuardedEnvironment(EnvironmentSpec(id=identifier))
    np.testing.assert_array_equal(environment.reset(3), environment.reset(3))
    rewards = [environment.step(1)[1] for _ in range(3)]
    assert rewards == [1.0, 1.0, 5.0]
    environment.close()
