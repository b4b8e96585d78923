"""Training with batch normalization: which statistics are used where, and who keeps them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from slimq.core.environment import AtariPreprocessing, EnvironmentSpec
from slimq.networks.architectures import mobilenet
from slimq.networks.checkpoint import load_network, save_network
from slimq.networks.qnetwork import QNetwork
from slimq_trainer.config import TrainConfig, load_config
from slimq_trainer.dqn import (
    act,
    descend,
    importance,
    loss_of,
    make_learner,
    play,
    temporal_difference_errors,
    updates_due,
)
from slimq_trainer.learner import Learner

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(small_config: TrainConfig) -> TrainConfig:
    """A tiny network with batch normalization on Pong."""
    values = small_config.model_dump()
    convolutions = [
        {"channels": 4, "kernel": 8, "stride": 8, "batch_norm": True},
        {"channels": 4, "kernel": 3, "padding": 1, "groups": 4, "batch_norm": True},
    ]
    values["network"] = {"kind": "conv", "convolutions": convolutions, "hidden": [8]}
    values["environment"] = EnvironmentSpec(
        id="PongNoFrameskip-v4", preprocessing=AtariPreprocessing(), max_episode_steps=70
    )
    values["algorithm"] |= {"target_update_every": 1_000_000}
    return TrainConfig.model_validate(values)


def statistics(network: QNetwork) -> list[Tensor]:
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    found = [tensor for norm in norms for tensor in (norm.running_mean, norm.running_var)]
    return [tensor.clone() for tensor in found if tensor is not None]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def update(learner: Learner) -> None:
    algorithm = learner.config.algorithm
    batch = learner.replay.sample(16, learner.sampling)
    errors = temporal_difference_errors(learner.q_online, learner.q_target, batch, algorithm)
    descend(learner, loss_of(errors, importance(learner, batch), algorithm))


def warmed_up(config: TrainConfig) -> Learner:
    learner = make_learner(config)
    while not updates_due(learner):
        play(learner, act(learner, learner.q_online))
    return learner


def test_acting_uses_the_running_statistics_and_leaves_them(config: TrainConfig) -> None:
    learner = warmed_up(config)
    update(learner)
    before = statistics(learner.online)
    frames = torch.from_numpy(learner.observations)
    with torch.no_grad():
        together = learner.q_online(frames)
        alone = torch.cat([learner.q_online(row[None]) for row in frames])
    assert torch.allclose(together, alone, atol=1e-6)
    act(learner, learner.q_online)
    assert same(statistics(learner.online), before)


def test_updates_move_the_online_statistics_and_the_target_keeps_its_own(
    config: TrainConfig,
) -> None:
    learner = warmed_up(config)
    fresh = statistics(learner.online)
    assert same(fresh, statistics(learner.target))
    update(learner)
    assert not same(statistics(learner.online), fresh)
    assert same(statistics(learner.target), fresh)
    learner.target.load_state_dict(learner.online.state_dict())
    assert same(statistics(learner.target), statistics(learner.online))


def test_the_minibatch_alone_moves_the_statistics_not_the_next_states(
    config: TrainConfig,
) -> None:
    learner = warmed_up(config)
    batch = learner.replay.sample(16, learner.sampling)
    first = learner.online.features[0]
    with torch.no_grad():
        given = first(learner.online.prepare(batch.observations))
    temporal_difference_errors(learner.q_online, learner.q_target, batch, learner.config.algorithm)
    expected = 0.1 * given.mean(dim=(0, 2, 3))
    assert torch.allclose(statistics(learner.online)[0], expected, atol=1e-6)
    assert not learner.online.training


def test_the_published_network_has_averaged_statistics(config: TrainConfig) -> None:
    learner = warmed_up(config)
    expected = statistics(learner.online)
    for _ in range(4):
        update(learner)
        decay = min(0.99, learner.updates / (9 + learner.updates))
        online = statistics(learner.online)
        expected = [
            decay * old + (1 - decay) * new for old, new in zip(expected, online, strict=True)
        ]
    published = statistics(learner.policy)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(published, expected, strict=True))
    assert not learner.policy.training


def test_a_network_with_statistics_comes_back_from_its_file(config: TrainConfig) -> None:
    learner = warmed_up(config)
    update(learner)
    content = save_network(learner.policy)
    again = load_network(content)
    assert same(statistics(again), statistics(learner.policy))
    assert save_network(again) == content


def test_mixed_precision_trains_it_too(config: TrainConfig) -> None:
    run = config.run.model_copy(update={"precision": "bf16"})
    learner = warmed_up(config.model_copy(update={"run": run}))
    before = [parameter.detach().clone() for parameter in learner.online.parameters()]
    with torch.no_grad():
        frames = torch.from_numpy(learner.observations)
        np.testing.assert_allclose(learner.q_online(frames), learner.online(frames), atol=0.02)
    update(learner)
    learner.check_finite()
    assert all(tensor.dtype == torch.float32 for tensor in statistics(learner.online))
    assert not same(list(learner.online.parameters()), before)


def test_pong_mobilenet_is_pong_with_the_preset_of_that_name() -> None:
    compact, pong = (load_config(ROOT / f"configs/{n}.toml") for n in ("pong-mobilenet", "pong"))
    assert compact.network == mobilenet()
    changed = {"policy": "pong", "network": pong.network}
    assert compact.model_copy(update=changed) == pong
