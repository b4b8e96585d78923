from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from slimq.core.errors import InvalidInputError
from slimq.environments.vector import describe
from slimq.networks.checkpoint import load_network
from slimq.networks.specification import NATURE, ConvSpec, MultiInputSpec
from slimq_trainer.config import TrainConfig
from slimq_trainer.dqn import act, make_learner, play, train
from slimq_trainer.fitting import DENSE, SMALL_IMAGES, channels_of, network_spec
from slimq_trainer.run import Run

NAME = "slimq-tests/Fitting-v0"
LAYER = {"channels": 4, "kernel": 3, "stride": 1}
CONV = {"kind": "conv", "convolutions": [LAYER], "hidden": [8]}


class Sampled(gymnasium.Env[Any, Any]):
    """Observations are drawn from the space, with the episode's seed."""

    action_space = Discrete(3, start=2)

    def __init__(self, space: Any) -> None:
        self.observation_space = space

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        ended = bool(self.np_random.random() < 0.05)
        return self.observation_space.sample(), float(action), ended, False, {}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    yield
    gymnasium.registry.pop(NAME, None)


def config(
    base: TrainConfig, space: Any, network: Any = None, wrappers: Any = (), **changes: Any
) -> TrainConfig:
    gymnasium.registry.pop(NAME, None)
    gymnasium.register(NAME, entry_point=lambda: Sampled(space), max_episode_steps=40)
    values = base.model_dump() | {"environment": {"id": NAME, "wrappers": list(wrappers)}}
    return TrainConfig.model_validate(values | {"network": network} | changes)


def image(*shape: int, high: int = 255, dtype: Any = np.uint8) -> Box:
    return Box(0, high, shape, dtype)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((84, 84, 3), "last"),
        ((64, 96, 1), "last"),
        ((10, 10, 7), "last"),
        ((4, 84, 84), "first"),
        ((3, 3, 64), None),
        ((10, 10, 10), None),
        ((64, 3, 64), None),
        ((3, 64, 3), None),
    ],
)
def test_the_channels_are_the_smallest_outer_axis(shape: Any, expected: str | None) -> None:
    assert channels_of(shape) == expected


@pytest.mark.parametrize(
    ("shape", "given", "expected"),
    [
        ((40, 48, 3), None, "last"),
        ((3, 40, 48), None, "first"),
        ((40, 48, 3), "first", "first"),
        ((10, 10, 10), "last", "last"),
    ],
)
def test_the_axis_of_the_channels_is_stored(
    small_config: TrainConfig, shape: Any, given: str | None, expected: str
) -> None:
    network = CONV | {"channels": given} | {"convolutions": [LAYER | {"kernel": 1}]}
    body = network_spec(config(small_config, image(*shape), network)).body
    assert isinstance(body, ConvSpec)
    assert body.channels == expected


def test_images_whose_channels_cannot_be_told_are_refused(small_config: TrainConfig) -> None:
    message = r'^network\.channels: expected "first" or "last", .*images \(10, 10, 10\)'
    with pytest.raises(InvalidInputError, match=message):
        network_spec(config(small_config, image(10, 10, 10), CONV))
    parts = Dict({"view": image(9, 9, 9)})
    multi = {"kind": "multi", "encoders": {"view": CONV}, "hidden": [8]}
    for network in (None, multi):
        with pytest.raises(InvalidInputError, match=r"^network\.encoders\.view\.channels: "):
            network_spec(config(small_config, parts, network))


def test_channels_that_are_frames_come_first(small_config: TrainConfig) -> None:
    stacked = [{"name": "FrameStackObservation", "kwargs": {"stack_size": 12}}]
    spec = network_spec(config(small_config, image(9, 9), CONV, stacked))
    assert isinstance(spec.body, ConvSpec)
    assert (spec.body.channels, spec.seen_shape) == (None, (12, 9, 9))
    last = CONV | {"channels": "last"}
    with pytest.raises(InvalidInputError, match=r'^network\.channels: expected "first", as the'):
        network_spec(config(small_config, image(9, 9), last, stacked))


def test_an_image_with_the_channels_last_is_not_read_as_rows(small_config: TrainConfig) -> None:
    """A network that sums the first channel finds it, wherever the axis is."""
    last = make_learner(config(small_config, image(8, 9, 3), CONV)).online
    first = make_learner(config(small_config, image(3, 8, 9), CONV)).online
    first.load_state_dict(last.state_dict())
    pixels = torch.randint(0, 256, (5, 3, 8, 9), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(last(pixels.permute(0, 2, 3, 1)), first(pixels))


@pytest.mark.parametrize(
    ("space", "divisor"),
    [
        (image(6, 7, 2), 255.0),
        (image(6, 7, 2, high=9), 9.0),
        (Box(0, 1, (6, 7, 2), np.bool_), 1.0),
        (image(5, high=7), 7.0),
    ],
)
def test_bytes_are_divided_by_the_spaces_highest_value(
    small_config: TrainConfig, space: Box, divisor: float
) -> None:
    network = CONV if len(space.shape) == 3 else {"kind": "mlp", "hidden": [8]}
    spec = network_spec(config(small_config, space, network))
    assert (spec.observation_dtype, spec.divisor) == ("uint8", divisor)


def test_parts_with_bytes_are_divided_by_their_own(small_config: TrainConfig) -> None:
    space = Dict(
        {"a": image(3, 3, 1), "b": image(4, high=6), "c": MultiBinary(2), "d": Discrete(3)}
    )
    spec = network_spec(config(small_config, space, {"kind": "mlp", "hidden": [8]}))
    assert spec.divisors == {"a": 255.0, "b": 6.0}


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (image(40, 48, 3), NATURE.model_copy(update={"channels": "last"})),
        (image(4, 84, 84), NATURE.model_copy(update={"channels": "first"})),
        (image(10, 10, 4), SMALL_IMAGES.model_copy(update={"channels": "last"})),
        (image(2, 2, 1), DENSE),
        (Box(-1, 1, (4,)), DENSE),
        (Box(-1, 1, (40, 40, 3)), DENSE),
        (Discrete(5), DENSE),
        (Dict({"a": Discrete(3), "b": Box(-1, 1, (2,))}), DENSE),
    ],
)
def test_without_a_network_the_default_fits_the_observation(
    small_config: TrainConfig, space: Any, expected: Any
) -> None:
    assert network_spec(config(small_config, space)).body == expected


def test_by_default_each_image_among_parts_has_an_encoder(small_config: TrainConfig) -> None:
    space = Dict({"far": image(40, 40, 3), "near": image(7, 7, 3), "speed": Box(-1, 1, (2,))})
    body = network_spec(config(small_config, space)).body
    assert isinstance(body, MultiInputSpec)
    assert set(body.encoders) == {"far", "near"}
    assert [encoder.hidden for encoder in body.encoders.values()] == [(256,), (256,)]


def test_a_network_that_does_not_fit_is_refused(small_config: TrainConfig) -> None:
    with pytest.raises(InvalidInputError, match=r"^network: expected one that fits .*kernel"):
        network_spec(config(small_config, image(10, 10, 4), NATURE.model_dump()))
    with pytest.raises(InvalidInputError, match=r"^network: .*kind = \"multi\""):
        network_spec(config(small_config, Dict({"view": image(9, 9, 3)}), CONV))


def test_a_step_limit_above_the_environments_own_is_refused(small_config: TrainConfig) -> None:
    space = Box(-1, 1, (4,))
    above = {"environment": {"id": NAME, "max_episode_steps": 41}}
    message = (
        r"^environment\.max_episode_steps: expected at most 40, the limit of .* itself, which "
        r"kwargs\.max_episode_steps can raise, received 41$"
    )
    with pytest.raises(InvalidInputError, match=message):
        network_spec(config(small_config, space, **above))
    for allowed in (
        {"max_episode_steps": 40},
        {"max_episode_steps": 41, "kwargs": {"max_episode_steps": 100}},
        {"max_episode_steps": None},
    ):
        network_spec(config(small_config, space, environment={"id": NAME} | allowed))


def test_images_are_normalized_as_they_come_or_not_at_all(small_config: TrainConfig) -> None:
    wrappers = [{"name": "NormalizeObservation"}]
    first = config(small_config, Box(0, 1, (3, 8, 9)), CONV, wrappers)
    learner = make_learner(first)
    assert act(learner, learner.q_online).shape == (3,)
    with pytest.raises(InvalidInputError, match=r"^network: expected channels first and no window"):
        network_spec(config(small_config, Box(0, 1, (8, 9, 3)), CONV, wrappers))


def test_the_head_of_the_configuration_is_built(small_config: TrainConfig) -> None:
    spec = network_spec(config(small_config, Box(-1, 1, (4,)), head={"dueling": True}))
    assert spec.head.dueling


SPACES = {
    "image": image(10, 10, 4),
    "doubles": Box(-1, 1, (3, 2), np.float64),
    "bool": Box(0, 1, (5, 5, 2), np.bool_),
    "discrete": Discrete(6, start=-2),
    "multi-discrete": MultiDiscrete([[2, 3], [4, 5]]),
    "multi-binary": MultiBinary(4),
    "dictionary": Dict({"view": image(7, 7, 3), "heading": Discrete(4), "speed": Box(-1, 1, (2,))}),
    "tuple": Tuple([Discrete(3), MultiBinary(2)]),
}


@pytest.mark.parametrize("name", SPACES)
def test_a_training_runs_on_every_space(
    tmp_path: Path, small_config: TrainConfig, name: str
) -> None:
    algorithm = small_config.algorithm.model_copy(update={"steps": 300})
    trained = config(small_config, SPACES[name], algorithm=algorithm.model_dump())
    with Run(tmp_path, trained, progress=False) as run:
        learner = train(trained, run)
    assert learner.updates > 20
    layout, actions, start = describe(trained.environment)
    assert (layout.dtype, actions, start) == (learner.replay.observation.dtype, ["2", "3", "4"], 2)
    stored = learner.replay.sample(4, learner.sampling).observations
    assert str(stored.dtype) == f"torch.{layout.dtype}"
    layout.check(stored.numpy())


def test_normalization_follows_every_observation_and_is_shared(
    tmp_path: Path, small_config: TrainConfig
) -> None:
    wrappers = [{"name": "NormalizeObservation"}]
    normalized = config(small_config, Box(-5, 90, (3,)), wrappers=wrappers)
    learner = make_learner(normalized)
    seen = [learner.observations]
    statistics = learner.online.normalize
    assert statistics is not None
    while learner.step < 300:
        before, started = learner.observations, learner.episodes
        play(learner, act(learner, learner.online))
        assert before is not learner.observations
        seen.append(learner.observations)
        if learner.episodes > started:  # the last observations of those that ended
            break
    ended = sum(not actions for actions in learner.episode_actions)
    count = sum(map(len, seen)) + ended
    assert float(statistics.count) == pytest.approx(count, abs=0.01)
    assert learner.target.normalize is statistics
    assert learner.policy.normalize is statistics
    with Run(tmp_path, normalized, progress=False) as run:
        trained = train(normalized, run)
        network = load_network(run.best_network.read_bytes(), "best")
    assert trained.online.normalize is not None
    assert network.normalize is not None
    assert torch.equal(network.normalize.mean, trained.online.normalize.mean)
    assert float(network.normalize.mean.mean()) == pytest.approx(42.5, abs=6)
