"""Fine-tuning by temporal differences, on transitions that the network itself plays.

Double DQN (van Hasselt et al. 2016, 1509.06461), starting from the given network: the target of
Q(s, a) is y = r + γ·Q(s', argmax Q(s', ·; θ); θ⁻), or y = r where the episode terminated, with
the Huber loss and a periodically updated target network θ⁻. Distillation is bounded by the teacher;
this optimizes the return itself. An anchor can keep the network close to the teacher: a Huber loss
to the teacher's Q-values on the same states, as in Kickstarting (Schmitt et al. 2018, 1803.03835),
but on values rather than policies.

Weights on grids stay on them: updates are straight-through, and play, targets and result use the
projected weights. Batch normalization uses its running statistics, which do not change, so that a
network is the same function in updates and in play. Learned activation ranges do not change either.

Cost: play (`rounds × steps`), `rounds × updates` of three forward passes and one backward pass, and
memory for `replay_rounds × steps` transitions, 56 kB each for four frames and the next four. It
fails with too little play: a policy near its optimum makes few mistakes, and bootstrapping noise
then does more harm than the rewards do good. A low learning rate, an anchor and the accept gate
limit the damage.
"""

from __future__ import annotations

import copy
from collections import deque
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from torch import Tensor, nn
from torch.nn import functional as F

from slimq.core.qfunction import QFunction, QValues
from slimq.networks.hardware import flushed_denormals, resolve_precision
from slimq.networks.qnetwork import MixedPrecision, QNetwork, arrange
from slimq.networks.targets import bootstrap_targets
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.context import PassContext, ProgressBar, TransitionBatch
from slimq_compression.network.distillation import label, without_later_options
from slimq_compression.network.disturbance import conditions_of
from slimq_compression.network.straight_through import LatentNetwork


class Params(BaseModel):
    """Parameters of the fine-tuning. Bounds are wide; see the recipes for values that work."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gamma: float = Field(default=0.99, ge=0.0, lt=1.0, description="discount factor per agent step")
    clip_rewards: bool = Field(
        default=True, description="learn from rewards clipped to [-1, 1], as the teacher did"
    )
    teacher_weight: float = Field(
        default=0.0,
        ge=0.0,
        le=1_000.0,
        description="weight of the Huber loss to the teacher's Q-values; 0: no anchor",
    )
    rounds: int = Field(default=4, ge=1, le=10_000, description="rounds of play and updates")
    steps: int = Field(default=4_000, ge=1, le=1_000_000, description="steps played per round")
    replay_rounds: int = Field(
        default=4, ge=1, le=1_000, description="number of newest rounds in the replay"
    )
    updates: int = Field(default=1_000, ge=1, le=10_000_000, description="updates per round")
    target_update_every: int = Field(
        default=500, ge=1, description="updates between target network updates"
    )
    batch_size: int = Field(default=64, ge=1, le=65_536, description="transitions per update")
    learning_rate: float = Field(default=5e-5, gt=0.0, le=1.0, description="learning rate of Adam")
    gradient_clip: float = Field(default=10.0, gt=0.0, le=1e6, description="maximum gradient norm")
    epsilon: float = Field(
        default=0.05, ge=0.0, le=1.0, description="probability of a random action in play"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="fp32",
        description="precision of the updates; auto: bf16 if the hardware supports it",
    )
    conditions: tuple[str, ...] = Field(
        default=(),
        max_length=32,
        description="conditions under which half of the episodes are played, such as "
        "'standard' or 'sticky=0.25'; the teacher labels the undisturbed observations",
    )

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_later_options(handler(self))


class Minibatch(NamedTuple):
    """Transitions, with the teacher's Q-values for `observations` (zeros without an anchor)."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminated: Tensor
    labels: Tensor


def apply(network: QNetwork, params: Params, context: PassContext) -> QNetwork:
    """Trains a copy of the network; the copy stays on its grids."""
    conditions = conditions_of(params.conditions, context.observation, "finetune_td")
    online = arrange(copy.deepcopy(network)).to(context.device).eval()
    latent = LatentNetwork(online, None, context.device)
    teacher = None
    if params.teacher_weight:
        teacher = context.expert()
    player = TorchPolicy(online, context.device)
    learner = _Learner(latent, params, context)
    replay = Replay(params.replay_rounds, context.generator)
    with context.progress("finetune_td", params.rounds * params.updates, "update") as bar:
        for index in range(params.rounds):
            with latent.projected():
                played = context.collect.transitions(
                    player, params.steps, epsilon=params.epsilon, conditions=conditions
                )
            replay.add(played, _label(teacher, played, network.spec.actions))
            with flushed_denormals():
                learner.learn(replay, bar, f"round {index + 1}/{params.rounds}")
    trained = copy.deepcopy(network)
    latent.write_to(trained)
    return trained


class Replay:
    """Transitions of the newest rounds, which all have the same length."""

    def __init__(self, rounds: int, generator: np.random.Generator) -> None:
        self.rounds: deque[tuple[TransitionBatch, QValues]] = deque(maxlen=rounds)
        self.generator = generator

    def add(self, played: TransitionBatch, labels: QValues) -> None:
        """Adds a round; drops the oldest one if there are too many."""
        self.rounds.append((played, labels))

    def sample(self, size: int) -> Minibatch:
        """Samples a minibatch uniformly, with replacement."""
        steps = len(self.rounds[0][1])
        drawn = self.generator.integers(len(self.rounds) * steps, size=size)
        rows = [(*self.rounds[index // steps], index % steps) for index in drawn.tolist()]
        return Minibatch(
            torch.from_numpy(np.stack([played.observations[i] for played, _, i in rows])),
            torch.tensor([int(played.actions[i]) for played, _, i in rows]),
            torch.tensor([float(played.rewards[i]) for played, _, i in rows]),
            torch.from_numpy(np.stack([played.next_observations[i] for played, _, i in rows])),
            torch.tensor([bool(played.terminated[i]) for played, _, i in rows]),
            torch.from_numpy(np.stack([labels[i] for _, labels, i in rows])),
        )


class _Learner:
    """Adam on the latent weights, with a target network."""

    def __init__(self, latent: LatentNetwork, params: Params, context: PassContext) -> None:
        self.latent, self.params, self.device = latent, params, context.device
        precision = resolve_precision(params.precision, context.device)
        online = latent.network
        self.target = copy.deepcopy(online).requires_grad_(requires_grad=False)
        self.q_online: nn.Module = MixedPrecision(online) if precision == "bf16" else online
        self.q_target: nn.Module = (
            MixedPrecision(self.target) if precision == "bf16" else self.target
        )
        self.optimizer = torch.optim.Adam(online.parameters(), lr=params.learning_rate, fused=True)
        self.total, self.done = params.rounds * params.updates, 0

    def learn(self, replay: Replay, bar: ProgressBar, note: str) -> None:
        params = self.params
        for _ in range(params.updates):
            self.latent.advance(self.done / self.total)
            batch = Minibatch(*(t.to(self.device) for t in replay.sample(params.batch_size)))
            self.optimizer.zero_grad(set_to_none=True)
            with self.latent.projected():
                if self.done % params.target_update_every == 0:
                    self.target.load_state_dict(self.latent.network.state_dict())
                loss = self.loss(batch)
                loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.latent.network.parameters(), params.gradient_clip)
            self.optimizer.step()
            self.done += 1
            if self.done % 50 == 0:
                bar.set_postfix_str(f"{note}, loss {loss.item():.2e}", refresh=False)
            bar.update(1)

    def loss(self, batch: Minibatch) -> Tensor:
        params = self.params
        rewards = batch.rewards.clamp(-1.0, 1.0) if params.clip_rewards else batch.rewards
        with torch.no_grad():
            targets = bootstrap_targets(
                rewards,
                params.gamma * ~batch.terminated,
                selecting=self.q_online(batch.next_observations),
                evaluating=self.q_target(batch.next_observations),
            )
        q_values: Tensor = self.q_online(batch.observations)
        values = q_values.gather(1, batch.actions[:, None]).squeeze(1)
        loss = F.smooth_l1_loss(values, targets)
        if params.teacher_weight:
            loss = loss + params.teacher_weight * F.smooth_l1_loss(q_values, batch.labels)
        return loss


def _label(teacher: QFunction | None, played: TransitionBatch, actions: int) -> QValues:
    """The teacher's Q-values `(steps, actions)`; zeros without a teacher."""
    states = played.present
    if teacher is None:
        return np.zeros((len(states), actions), np.float32)
    return label(teacher, states)
