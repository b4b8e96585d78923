from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slimq.core.errors import ConfigError
from slimq.networks.specification import NATURE
from slimq_trainer.config import AlgorithmConfig, load_config

ROOT = Path(__file__).parents[2]
MINIMAL = 'policy = "p"\n[environment]\nid = "CartPole-v1"\n[algorithm]\nsteps = 60_000\n'


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda p: p.name)
def test_every_shipped_configuration_is_valid(path: Path) -> None:
    assert load_config(path).policy == path.stem


def test_the_defaults_are_the_plain_algorithm() -> None:
    plain = AlgorithmConfig(steps=60_000)
    assert (plain.double, plain.n_step, plain.loss) == (False, 1, "squared")
    assert (plain.gradient_clip, plain.learning_rate_end) == (None, None)
    assert (plain.optimizer, plain.environments) == ("rmsprop", 1)
    assert plain.augmentation is None


def test_one_thread_is_used_unless_more_are_asked_for() -> None:
    configs = [load_config(path) for path in sorted((ROOT / "configs").glob("*.toml"))]
    assert {config.run.threads for config in configs} == {1}


def test_pong_is_trained_with_the_nature_network() -> None:
    assert load_config(ROOT / "configs/pong.toml").network == NATURE


def test_the_policy_that_holds_has_the_protocol_of_pong_but_for_its_sticky_actions() -> None:
    sticky, pong = (load_config(ROOT / f"configs/{name}.toml") for name in ("pong-sticky", "pong"))
    atari = sticky.environment.preprocessing
    assert atari is not None
    assert atari.sticky_actions == 0.25
    plain = atari.model_copy(update={"sticky_actions": 0.0})
    assert sticky.environment.model_copy(update={"preprocessing": plain}) == pong.environment
    assert (sticky.network, sticky.run) == (pong.network, pong.run)
    assert sticky.algorithm.augmentation is not None


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        (MINIMAL + "double_q = true\n", "algorithm.double_q", "did you mean 'double'"),
        ("polcy = 'p'\n" + MINIMAL, "polcy", "did you mean 'policy'"),
        (MINIMAL + "gamma = 1.5\n", "algorithm.gamma", "less than 1"),
        (MINIMAL.replace("60_000", "0"), "algorithm.steps", "greater than or equal"),
        (MINIMAL.replace("60_000", "50_000"), "algorithm", "learning_starts (50000) leaves no"),
        (MINIMAL + "replay_size = 50_000_000_000_000\n", "algorithm.replay_size", "1000000000"),
        (MINIMAL + "gradient_clip = inf\n", "algorithm.gradient_clip", "a finite number"),
        (MINIMAL + "optimizer_epsilon = nan\n", "algorithm.optimizer_epsilon", "a finite number"),
        (MINIMAL + "[run]\ncheckpoint_minutes = inf\n", "run.checkpoint_minutes", "finite number"),
        (MINIMAL + "[run]\ntarget_return = nan\n", "run.target_return", "a finite number"),
        (MINIMAL + "[run]\nevaluate_episodes = 10_001\n", "run.evaluate_episodes", "10000"),
        (MINIMAL + "environments = 200\nreplay_size = 500\n", "algorithm", "replay_size"),
        (MINIMAL + "[network]\nkind = 'mlp'\nhiden = [4]\n", "network.mlp.hiden", "'hidden'"),
        (MINIMAL + "[network]\nkind = 'transformer'\n", "network", "'conv'"),
        ("policy = [", "syntax", "Invalid value"),
        (MINIMAL.replace('"p"', '"../p"'), "policy", "pattern"),
        (MINIMAL + "augmentation = { shift = -1 }\n", "algorithm.augmentation.shift", "equal to 0"),
        (MINIMAL + "augmentation = { shfit = 1 }\n", "algorithm.augmentation.shfit", "'shift'"),
        (MINIMAL + "augmentation = { noise = inf }\n", "algorithm.augmentation.noise", "finite"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(
    tmp_path: Path, text: str, place: str, problem: str
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert error.value.source == str(path)
    assert error.value.place == place
    assert problem in error.value.problem


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "nothing.toml")


@pytest.mark.parametrize(("optimizer", "term"), [("adam", 1e-8), ("rmsprop", 0.1)])
def test_the_term_in_the_denominator_is_the_optimizers_own(optimizer: Any, term: float) -> None:
    assert AlgorithmConfig(steps=100_000, optimizer=optimizer).denominator_term == term
    given = AlgorithmConfig(steps=100_000, optimizer=optimizer, optimizer_epsilon=0.5)
    assert given.denominator_term == 0.5
