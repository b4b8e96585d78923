from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from slimq.core.environment import EnvironmentSpec
from slimq.core.observation import ObservationSpec
from slimq.core.repository import Repository
from slimq.core.seeds import COLLECTION
from slimq.environments.collection import Transitions, collect_transitions
from slimq.networks.export import export_onnx
from slimq.networks.grids import LinearLevels, Mask
from slimq.networks.qnetwork import named_layers
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.collector import PolicyCollector
from slimq_compression.network.straight_through import attach_grids
from slimq_compression.passes import student
from slimq_compression.passes.finetune_td import Params, Replay, apply
from slimq_compression.source import load_source

CARTPOLE = EnvironmentSpec(id="CartPole-v1", max_episode_steps=100)
SHORT = Params(rounds=2, steps=64, updates=20, batch_size=16, learning_rate=1e-3)


class OneReward:
    """A collector whose every transition has the same reward; it remembers who played."""

    def __init__(self, states: Any, reward: float, terminated: bool) -> None:
        self.all_states, self.reward, self.terminated = states, reward, terminated
        self.players: list[Any] = []

    def transitions(
        self, q_function: Any, steps: int, *, epsilon: float, conditions: Any = ()
    ) -> Transitions:
        self.players.append(q_function(self.all_states[:4]))
        states = self.all_states[:steps]
        return Transitions(
            observations=states,
            actions=np.arange(steps) % 2,
            rewards=np.full(steps, self.reward, np.float32),
            next_observations=states[::-1].copy(),
            terminated=np.full(steps, self.terminated),
            present=states,
        )


def cartpole_collector() -> PolicyCollector:
    return PolicyCollector(CARTPOLE, ObservationSpec(dtype="float32", shape=(4,)), 2, None)


def bellman_error(policy: TorchPolicy, played: Transitions, gamma: float) -> float:
    ahead = policy(played.next_observations).max(axis=1) * ~played.terminated
    values = policy(played.observations)[np.arange(len(played)), played.actions]
    return float(np.abs(played.rewards + gamma * ahead - values).mean())


def test_values_before_a_terminal_state_become_the_reward(
    make_network, make_context, make_states
) -> None:
    network = make_network("mlp")
    states = make_states("mlp", 64)
    context = replace(
        make_context("mlp", network), collect=OneReward(states, reward=0.7, terminated=True)
    )
    params = SHORT.model_copy(update={"updates": 150, "learning_rate": 1e-2})
    values = TorchPolicy(apply(network, params, context))(states)
    taken = values[np.arange(64), np.arange(64) % 2]
    np.testing.assert_allclose(taken, 0.7, atol=0.1)


@pytest.mark.parametrize(("clip", "expected"), [(True, 1.0), (False, 3.0)])
def test_rewards_are_clipped_as_in_training_unless_told_otherwise(
    make_network, make_context, make_states, clip: bool, expected: float
) -> None:
    network = make_network("mlp")
    states = make_states("mlp", 64)
    collector = OneReward(states, reward=3.0, terminated=True)
    context = replace(make_context("mlp", network), collect=collector)
    update = {"updates": 150, "learning_rate": 2e-2, "clip_rewards": clip}
    values = TorchPolicy(apply(network, SHORT.model_copy(update=update), context))(states)
    assert values[np.arange(64), np.arange(64) % 2].mean() == pytest.approx(expected, abs=0.2)


def test_the_temporal_difference_error_falls_on_play_of_cartpole(
    cartpole_repository: Repository, make_context
) -> None:
    """The policy balances, but its values are those of no reward: near 1 / (1 − γ) is right."""
    network = load_source(cartpole_repository, "cartpole").full
    context = replace(make_context("mlp", network), collect=cartpole_collector())
    params = Params(
        gamma=0.9,
        rounds=2,
        steps=300,
        updates=300,
        target_update_every=25,
        batch_size=32,
        learning_rate=5e-3,
    )
    trained = TorchPolicy(apply(network, params, context))
    seeds = range(COLLECTION.start + 5_000, COLLECTION.start + 6_000)
    played = collect_transitions(CARTPOLE, trained, 300, epsilon=0.05, seeds=seeds)
    before, after = (
        bellman_error(policy, played, 0.9) for policy in (TorchPolicy(network), trained)
    )
    assert after < 0.4 * before
    assert trained(played.observations).max(axis=1).mean() == pytest.approx(10.0, abs=1.5)


def test_an_anchor_keeps_the_network_nearer_to_the_teacher(
    make_network, make_context, make_states
) -> None:
    teacher = make_network("mlp")
    states = make_states("mlp", 64)
    distances = []
    for weight in (0.0, 5.0):
        collector = OneReward(states, reward=1.0, terminated=False)
        context = replace(make_context("mlp", teacher), collect=collector)
        params = SHORT.model_copy(update={"updates": 100, "teacher_weight": weight})
        trained = TorchPolicy(apply(teacher, params, context))
        distances.append(np.abs(trained(states) - TorchPolicy(teacher)(states)).mean())
    assert distances[1] < 0.5 * distances[0]


def test_the_network_itself_plays_every_round(make_network, make_context, make_states) -> None:
    network = make_network("mlp")
    collector = OneReward(make_states("mlp", 64), reward=1.0, terminated=False)
    apply(network, SHORT, replace(make_context("mlp", network), collect=collector))
    first, second = collector.players
    np.testing.assert_array_equal(first, TorchPolicy(network)(collector.all_states[:4]))
    assert not np.allclose(first, second)


def test_weights_stay_on_their_grids_in_play_and_in_the_result(
    make_network, make_context, make_states
) -> None:
    network = make_network("mlp")
    attach_grids(network, "dense1", (Mask(sparsity=0.5),))
    attach_grids(network, "dense2", (LinearLevels(highest=7),))
    zeros = network.features[0].weight == 0
    before = network.features[0].weight.detach().clone()
    collector = OneReward(make_states("mlp", 64), reward=1.0, terminated=False)
    trained = apply(network, SHORT, replace(make_context("mlp", network), collect=collector))
    weights = {name: layer.weight.detach() for name, layer in named_layers(trained).items()}
    assert torch.equal(weights["dense1"] == 0, zeros)
    assert not torch.equal(weights["dense1"], before)
    for name in ("dense1", "dense2"):
        (grid,) = trained.grids[name]
        assert torch.equal(grid.project(weights[name]), weights[name])
    assert all(len(row.unique()) <= 15 for row in weights["dense2"])


def test_batch_normalization_keeps_its_statistics(make_network, make_context) -> None:
    layers = [{"channels": 4, "kernel": 4, "stride": 2, "batch_norm": True}]
    teacher = make_network("conv")
    context = make_context("conv", teacher)
    params = student.Params.model_validate({"convolutions": layers})
    network = student.apply(teacher, params, context)
    trained = apply(network, SHORT, context)
    norms = [net.features[1] for net in (network, trained)]
    assert all(isinstance(norm, nn.BatchNorm2d) for norm in norms)
    assert torch.equal(norms[0].running_mean, norms[1].running_mean)
    assert torch.equal(norms[0].running_var, norms[1].running_var)
    assert not torch.equal(norms[0].weight, norms[1].weight)


def test_play_on_collection_seeds_with_the_same_seed_gives_the_same_bytes(
    make_network, make_context
) -> None:
    network = make_network("mlp")
    files = []
    for seed in (1, 1, 2):
        context = replace(make_context("mlp", network, seed), collect=cartpole_collector())
        files.append(export_onnx(apply(network, SHORT, context)))
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_bf16_updates_train_as_well(make_network, make_context) -> None:
    network = make_network("conv")
    params = SHORT.model_copy(update={"precision": "bf16", "updates": 3})
    trained = apply(network, params, make_context("conv", network))
    assert all(p.dtype == torch.float32 for p in trained.parameters())
    assert not torch.equal(trained.head.weight, network.head.weight)


def test_replay_draws_from_the_newest_rounds_alone() -> None:
    replay = Replay(2, np.random.default_rng(0))
    for value in range(3):
        states = np.full((6, 1), value, np.float32)
        played = Transitions(
            observations=states,
            actions=np.full(6, value),
            rewards=np.full(6, value, np.float32),
            next_observations=states + 10,
            terminated=np.full(6, value == 2),
            present=states,
        )
        replay.add(played, np.full((6, 2), value, np.float32))
    batch = replay.sample(200)
    assert set(batch.rewards.tolist()) == {1.0, 2.0}
    assert torch.equal(batch.observations[:, 0], batch.rewards)
    assert torch.equal(batch.next_observations[:, 0], batch.rewards + 10)
    assert torch.equal(batch.actions, batch.rewards.long())
    assert torch.equal(batch.terminated, batch.rewards == 2)
    assert torch.equal(batch.labels[:, 1], batch.rewards)


def test_transitions_are_played_under_the_conditions_and_the_anchor_is_to_what_was_there(
    make_network, make_context
) -> None:
    network = make_network("mlp")
    asked: list[Any] = []

    class Late(OneReward):
        def transitions(
            self, q_function: Any, steps: int, *, epsilon: float, conditions: Any = ()
        ) -> Transitions:
            asked.append([condition.label for condition in conditions])
            played = super().transitions(q_function, steps, epsilon=epsilon)
            return replace(played, present=played.observations + 1)

    states = np.zeros((64, 4), np.float32)
    context = replace(make_context("mlp", network), collect=Late(states, 1.0, terminated=True))
    seen: list[Any] = []

    def remember(given: Any, /) -> Any:
        seen.append(given)
        return TorchPolicy(network)(given)

    object.__setattr__(context, "expert", lambda: remember)
    params = SHORT.model_copy(update={"conditions": ("delayed=3",), "teacher_weight": 1.0})
    apply(network, params, context)
    assert asked == [["delayed=3"]] * 2
    assert all((given == 1).all() for given in seen)
    assert len(seen) == 2
    assert "conditions" in params.model_dump(mode="json")
    assert "conditions" not in SHORT.model_dump(mode="json")
