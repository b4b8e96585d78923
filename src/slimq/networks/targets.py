"""Targets for temporal-difference learning, with and without Double DQN."""

from __future__ import annotations

import torch
from torch import Tensor


def bootstrap_targets(
    returns: Tensor, discounts: Tensor, selecting: Tensor, evaluating: Tensor
) -> Tensor:
    """The targets y = R + γ^m·Q(s', a*; θ⁻), where a* = argmax Q(s', ·).

    Q-learning selects and evaluates a* with one network, which overestimates its value. Double DQN
    selects with the online network and evaluates with the target network (van Hasselt et al. 2016,
    "Deep Reinforcement Learning with Double Q-learning", 1509.06461, equation 4).

    Args:
        returns: `(batch,)`, R, the sum of discounted rewards of the m steps to s'.
        discounts: `(batch,)`, γ^m, or 0 where the episode terminated at s'; a truncated episode
            would have continued, so its target bootstraps.
        selecting: `(batch, actions)`, Q(s', ·; θ), or Q(s', ·; θ⁻) without Double DQN.
        evaluating: `(batch, actions)`, Q(s', ·; θ⁻).
    """
    best = selecting.argmax(1, keepdim=True)
    ahead = evaluating.gather(1, best).squeeze(1)
    return returns + torch.where(discounts == 0, 0.0, discounts * ahead)
