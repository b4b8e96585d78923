from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from slimq.environments.collection import States
from slimq.networks.checkpoint import save_network
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.context import SilentBar
from slimq_compression.network.distillation import (
    Labels,
    Loss,
    Replay,
    distillation_loss,
    expected_regret,
    policy_divergence,
)
from slimq_compression.network.disturbance import Disturb
from slimq_compression.passes.finetune import Params, apply


def test_the_divergence_of_a_hand_computed_example() -> None:
    """τ = 1: p = (3/4, 1/4), q = (1/2, 1/2); KL = 3/4·ln(3/2) + 1/4·ln(1/2)."""
    teacher = torch.tensor([[math.log(3.0), 0.0]])
    student = torch.tensor([[0.0, 0.0]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert policy_divergence(student, teacher, 1.0).item() == pytest.approx(expected)
    scaled = policy_divergence(student, teacher * 0.1, 0.1).item()
    assert scaled == pytest.approx(0.1 * expected)


def test_the_divergence_is_blind_to_the_level_and_the_huber_term_is_not() -> None:
    teacher = torch.tensor([[1.0, 2.0]])
    shifted = teacher + 0.5
    assert policy_divergence(shifted, teacher, 0.1).item() == pytest.approx(0.0, abs=1e-6)
    assert distillation_loss(shifted, teacher, Params(q_weight=2.0)).item() == pytest.approx(0.25)


def test_the_regret_is_what_the_policy_loses_and_blind_among_actions_of_one_worth() -> None:
    teacher = torch.tensor([[1.0, 1.0, 0.2]])
    sure = [torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[0.0, 9.0, 0.0]])]
    assert [expected_regret(q, teacher, 0.1).item() for q in sure] == pytest.approx(
        [0.0, 0.0], abs=1e-6
    )
    wrong = torch.tensor([[0.0, 0.0, 9.0]])
    assert expected_regret(wrong, teacher, 0.1).item() == pytest.approx(0.8)
    undecided = torch.zeros(1, 3)
    assert expected_regret(undecided, teacher, 0.1).item() == pytest.approx(0.8 / 3)
    params = Params(loss=Loss.REGRET, temperature=0.1, q_weight=0.5)
    expected = 0.8 + 0.5 * torch.nn.functional.smooth_l1_loss(wrong, teacher).item()
    assert distillation_loss(wrong, teacher, params).item() == pytest.approx(expected)


@pytest.mark.parametrize(("loss", "expected"), [(Loss.MSE, 4.0), (Loss.HUBER, 1.5)])
def test_regression_losses_of_a_difference_of_two(loss: Loss, expected: float) -> None:
    value = distillation_loss(torch.tensor([[2.0]]), torch.tensor([[0.0]]), Params(loss=loss))
    assert value.item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", list(Loss))
def test_fine_tuning_brings_a_network_nearer_to_the_teacher(
    make_network, make_context, make_states, loss: Loss
) -> None:
    teacher, student = make_network("mlp"), make_network("mlp", 1)
    context = make_context("mlp", teacher)
    params = Params(loss=loss, rounds=2, states=200, updates=200, replay_states=400)
    states = make_states("mlp", 100, seed=99)
    errors = [
        np.abs(TorchPolicy(network)(states) - TorchPolicy(teacher)(states)).mean()
        for network in (student, apply(student, params, context))
    ]
    assert errors[1] < 0.5 * errors[0]


def test_the_teacher_plays_the_first_rounds_and_the_network_itself_the_others(
    make_network, make_context, make_states
) -> None:
    teacher, student = make_network("mlp"), make_network("mlp", 1)
    context = make_context("mlp", teacher)
    apply(student, Params(rounds=3, teacher_rounds=1, states=8, updates=1), context)
    states = make_states("mlp", 5)
    is_teacher = [
        np.array_equal(player(states), TorchPolicy(teacher)(states))
        for player in context.collect.players
    ]
    assert is_teacher == [True, False, False]


def test_denormals_are_zeros_in_updates_and_nowhere_else(make_network, make_context) -> None:
    def survives() -> bool:
        return (torch.tensor([1e-40]) * 0.5).item() > 0

    seen: dict[str, set[bool]] = {"play": set(), "updates": set()}

    class Bar(SilentBar):
        def update(self, n: float = 1, /) -> None:
            seen["updates"].add(survives())

    context = make_context("mlp", make_network("mlp"))
    draw = context.collect.states

    def watch(*arguments, **options):
        seen["play"].add(survives())
        return draw(*arguments, **options)

    context.collect.states = watch
    context = replace(context, progress=lambda *_: Bar())
    torch.set_flush_denormal(False)
    apply(make_network("mlp", 1), Params(rounds=2, states=8, updates=2), context)
    assert seen == {"play": {True}, "updates": {False}}
    assert survives()


def test_bf16_updates_train_as_well(make_network, make_context) -> None:
    teacher, student = make_network("conv"), make_network("conv", 1)
    params = Params(rounds=1, states=32, updates=3, batch_size=8, precision="bf16")
    trained = apply(student, params, make_context("conv", teacher))
    assert all(p.dtype == torch.float32 and p.is_contiguous() for p in trained.parameters())
    assert not torch.equal(trained.head.weight, student.head.weight)


def test_a_full_replay_keeps_the_newest_round_and_a_part_of_the_earlier_ones() -> None:
    replay = Replay(10, np.random.default_rng(0))
    for value in range(3):
        states = np.full((6, 1), value, np.float32)
        replay.add(states, torch.full((6, 2), float(value)))
    assert len(replay.states) == 10
    assert (replay.states == 2).sum() == 6
    np.testing.assert_array_equal(replay.states[:, 0], replay.labels[:, 0].numpy())


def test_replay_must_hold_a_round() -> None:
    with pytest.raises(ValueError, match="replay_states must hold"):
        Params(states=100, replay_states=50)


DISTURBED = Params(
    rounds=2,
    teacher_rounds=1,
    states=32,
    updates=4,
    batch_size=8,
    disturb=Disturb(noise=0.5, bias=0.5),
    conditions=("standard", "delayed=2"),
)


@pytest.mark.parametrize("labels", list(Labels))
def test_training_on_disturbed_states_with_the_same_seed_gives_the_same_bytes(
    make_network, make_context, labels: Labels
) -> None:
    teacher, student = make_network("mlp"), make_network("mlp", 1)
    params = DISTURBED.model_copy(update={"labels": labels})
    files = [
        save_network(apply(student, params, make_context("mlp", teacher, seed)))
        for seed in (1, 1, 2)
    ]
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_disturbed_states_get_the_values_of_the_states_before_or_their_own(
    make_network, make_context
) -> None:
    """The teacher is the student, so that there is nothing to learn from labels of its own."""
    network = make_network("mlp")
    params = DISTURBED.model_copy(update={"loss": Loss.MSE, "epsilon": 0.0, "q_weight": 0.0})
    context = make_context("mlp", network)
    learned = apply(network, params, context)
    assert not torch.equal(learned.head.weight, network.head.weight)
    params = params.model_copy(update={"labels": Labels.DISTURBED})
    same = apply(network, params, make_context("mlp", network))
    torch.testing.assert_close(same.head.weight, network.head.weight, rtol=0, atol=1e-4)


class LateStates:
    """A collector under whose conditions something else arrives; it remembers the conditions."""

    def __init__(self, states: Any) -> None:
        self.drawn, self.asked = states, []

    def states(self, *_: Any, conditions: Any, **__: Any) -> States:
        self.asked.append([condition.label for condition in conditions])
        return States(self.drawn, self.drawn + 1)


def test_the_student_learns_from_what_arrives_the_values_of_what_was_there(
    make_network, make_context, make_states
) -> None:
    teacher, student = make_network("mlp"), make_network("mlp", 1)
    states = make_states("mlp", 64)
    seen: list[Any] = []

    def remember(given: Any, /) -> Any:
        seen.append(given)
        return TorchPolicy(teacher)(given)

    for labels, expected in ((Labels.CLEAN, states + 1), (Labels.DISTURBED, states)):
        collector = LateStates(states)
        context = replace(make_context("mlp", teacher), collect=collector)
        object.__setattr__(context, "expert", lambda: remember)
        seen.clear()
        params = Params(states=64, rounds=1, updates=1, conditions=("sticky=0.5",), labels=labels)
        apply(student, params, context)
        np.testing.assert_array_equal(np.concatenate(seen), expected)
        assert collector.asked == [["sticky=0.5"]]


def test_a_step_without_disturbances_is_recorded_as_before_there_were_any() -> None:
    recorded = Params().model_dump(mode="json")
    assert not {"disturb", "conditions", "labels"} & set(recorded)
    assert {"disturb", "conditions"} <= set(DISTURBED.model_dump(mode="json"))
    assert Params.model_validate(DISTURBED.model_dump(mode="json")) == DISTURBED
