from __future__ import annotations

import torch

from slimq.networks.targets import bootstrap_targets

ONLINE = torch.tensor([[0.0, 2.0], [3.0, 1.0], [4.0, 0.0]])
TARGET = torch.tensor([[9.0, 5.0], [7.0, 9.0], [2.0, 8.0]])


def test_double_dqn_selects_with_one_network_and_evaluates_with_the_other() -> None:
    """γ = 0.9; the online network prefers action 1 in the first row and 0 in the others."""
    targets = bootstrap_targets(
        torch.tensor([1.0, -1.0, 0.5]), torch.tensor([0.9, 0.0, 0.9]), ONLINE, TARGET
    )
    # 1 + 0.9·5, the terminal reward alone, 0.5 + 0.9·2
    assert torch.allclose(targets, torch.tensor([5.5, -1.0, 2.3]))


def test_with_one_network_for_both_it_is_plain_dqn() -> None:
    """The last row's return is of three steps."""
    targets = bootstrap_targets(
        torch.tensor([1.0, -1.0, 0.5]), torch.tensor([0.9, 0.9, 0.9**3]), TARGET, TARGET
    )
    assert torch.allclose(targets, torch.tensor([1 + 8.1, -1 + 8.1, 0.5 + 0.9**3 * 8]))


def test_a_terminal_transition_does_not_bootstrap_even_from_what_is_not_finite() -> None:
    endless = torch.tensor([[float("inf"), float("inf")]])
    targets = bootstrap_targets(
        torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([[0.0, 1.0]]), endless
    )
    assert targets.item() == 1.0
