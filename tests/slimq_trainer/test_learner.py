from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slimq.core.environment import AtariPreprocessing, EnvironmentSpec
from slimq.core.errors import InvalidInputError
from slimq_trainer.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from slimq_trainer.config import TrainConfig
from slimq_trainer.dqn import act, make_learner, play, sample, train
from slimq_trainer.learner import Learner
from slimq_trainer.run import Run

MILD = {"shift": 2, "brightness": 8, "noise": 4}


def playing(config: TrainConfig, augmentation: dict[str, Any] | None) -> TrainConfig:
    """Pong with sticky actions and a small network, for 300 steps."""
    environment = EnvironmentSpec(
        id="PongNoFrameskip-v4",
        preprocessing=AtariPreprocessing(sticky_actions=0.25),
        max_episode_steps=60,
    )
    values = config.model_dump()
    return TrainConfig.model_validate(
        values
        | {
            "environment": environment,
            "network": {
                "kind": "conv",
                "convolutions": [{"channels": 4, "kernel": 8, "stride": 8}],
                "hidden": [8],
            },
            "algorithm": values["algorithm"] | {"steps": 300, "augmentation": augmentation},
        }
    )


def train_in(folder: Path, config: TrainConfig, stop: int = 10**9) -> Learner:
    with Run(folder, config, progress=False) as run:
        follow = run.after_step

        def stop_there(learner: Learner) -> None:
            follow(learner)
            run.stopping = learner.step >= stop

        run.after_step = stop_there  # type: ignore[method-assign]
        return train(config, run)


def played(config: TrainConfig) -> Learner:
    learner = make_learner(config)
    while learner.step < 210:
        play(learner, act(learner, learner.online))
    return learner


def weights(learner: Learner) -> list[Tensor]:
    networks = [learner.online, learner.target, learner.policy]
    return [weight for network in networks for weight in network.state_dict().values()]


def same(first: Learner, second: Learner) -> bool:
    return all(torch.equal(*pair) for pair in zip(weights(first), weights(second), strict=True))


def test_an_interrupted_training_ends_with_the_same_weights_with_sticky_actions_too(
    tmp_path: Path, small_config: TrainConfig
) -> None:
    config = playing(small_config, MILD)
    whole = train_in(tmp_path / "whole", config)
    for stop in (90, 201):
        pieces = train_in(tmp_path / "pieces", config, stop)
        assert pieces.step == stop
    pieces = train_in(tmp_path / "pieces", config)
    assert whole.updates == pieces.updates > 30
    assert same(whole, pieces)
    assert same(whole, train_in(tmp_path / "again", config))
    assert not same(whole, train_in(tmp_path / "plain", playing(small_config, None)))


def test_both_observations_are_augmented_independently_and_nothing_else(
    small_config: TrainConfig,
) -> None:
    config = playing(small_config, {"shift": 4, "probability": 1.0})
    learner = played(config)
    stored, state = learner.replay.frames.clone(), learner.sampling.get_state()
    augmented = sample(learner)
    learner.sampling.set_state(state)
    plain = learner.replay.sample(config.algorithm.batch_size, learner.sampling)
    assert torch.equal(learner.replay.frames, stored)
    for name in ("actions", "returns", "discounts", "probabilities", "environments", "rows"):
        assert torch.equal(getattr(augmented, name), getattr(plain, name))
    moves = []
    for name in ("observations", "next_observations"):
        before, after = getattr(plain, name), getattr(augmented, name)
        assert (after.dtype, after.shape) == (torch.uint8, before.shape)
        moves.append([found(*pair) for pair in zip(before, after, strict=True)])
    first, second = moves
    assert None not in first + second
    assert first != second


def found(before: Tensor, after: Tensor) -> tuple[int, int] | None:
    """The shift from one state to another; its inside tells."""
    for down in range(-4, 5):
        for right in range(-4, 5):
            moved = before.roll((-down, -right), (1, 2))
            if torch.equal(moved[:, 4:-4, 4:-4], after[:, 4:-4, 4:-4]):
                return down, right
    return None


def test_without_augmentation_the_minibatch_is_that_of_the_replay_buffer(
    small_config: TrainConfig,
) -> None:
    learner = played(small_config)
    state = learner.sampling.get_state()
    batch = sample(learner)
    learner.sampling.set_state(state)
    plain = learner.replay.sample(small_config.algorithm.batch_size, learner.sampling)
    assert torch.equal(batch.observations, plain.observations)
    assert torch.equal(batch.next_observations, plain.next_observations)


def test_augmentation_can_begin_with_a_checkpoint_that_knows_nothing_of_it(
    tmp_path: Path, small_config: TrainConfig
) -> None:
    learner = played(playing(small_config, None))
    save_checkpoint(tmp_path, learner, {})
    path = latest_checkpoint(tmp_path)
    assert path is not None
    state = torch.load(path / "state.pt", weights_only=True)
    del state["augmentation"], state["config"]["algorithm"]["augmentation"]
    torch.save(state, path / "state.pt")
    same_as_before = make_learner(playing(small_config, None))
    load_checkpoint(path, same_as_before)
    assert same_as_before.step == learner.step
    augmented = make_learner(playing(small_config, MILD))
    load_checkpoint(path, augmented, goes_on=True)
    assert (augmented.step, len(augmented.replay)) == (learner.step, len(learner.replay))


def test_vectors_are_not_augmented(small_config: TrainConfig) -> None:
    values = small_config.model_dump()
    vectors = values | {"algorithm": values["algorithm"] | {"augmentation": MILD}}
    message = (
        r"^algorithm\.augmentation: expected observations that are frames, "
        r"received the vectors of CartPole-v1$"
    )
    with pytest.raises(InvalidInputError, match=message):
        make_learner(TrainConfig.model_validate(vectors))
