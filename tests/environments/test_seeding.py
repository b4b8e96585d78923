from __future__ import annotations

from collections.abc import Callable

import pytest

from slimq.core.environment import AtariPreprocessing, EnvironmentSpec
from slimq.core.errors import EnvironmentFailure
from slimq.environments.seeding import check_seeding

Game = Callable[..., str]


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"reset": "self.observe = lambda: np.float32([random.random(), 0, 0])"}, "reset: observ"),
        ({"reset": "self.np_random = np.random.default_rng()"}, "seed 0, reset: observation"),
        ({"step": "reward = random.random()"}, "seed 0, step 2: reward"),
        (
            {
                "init": "self.dice = random.Random(1)",
                "step": "terminated = self.dice.random() < 0.5",
            },
            "step 2: terminated",
        ),
        (
            {
                "init": "self.played = 0",
                "reset": "self.played += 1",
                "step": "reward = self.played",
            },
            "seed 0, step 2: reward",
        ),
    ],
)
def test_an_environment_that_ignores_its_seed_is_refused(
    game: Game, faults: dict[str, str], message: str
) -> None:
    with pytest.raises(EnvironmentFailure, match=rf"^game\.py:make: episode of.*{message}"):
        check_seeding(EnvironmentSpec(id=game(**faults)))


@pytest.mark.parametrize(
    "faults", [{}, {"reset": "self.observe = lambda: np.zeros(3, np.float32)"}]
)
def test_an_environment_whose_episodes_depend_on_the_seed_alone_passes(
    game: Game, faults: dict[str, str]
) -> None:
    check_seeding(EnvironmentSpec(id=game(**faults)))


@pytest.mark.parametrize("name", ["CartPole-v1", "FrozenLake-v1", "Acrobot-v1"])
def test_environments_of_gymnasium_pass(name: str) -> None:
    check_seeding(EnvironmentSpec(id=name))


def test_preprocessed_games_are_not_checked() -> None:
    check_seeding(EnvironmentSpec(id="ALE/NoSuchGame-v5", preprocessing=AtariPreprocessing()))
