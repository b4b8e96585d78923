"""Distillation of the full policy into a network: losses, the replay of states, the updates.

Policy distillation after Rusu et al. 2015 (1511.06295): the teacher labels states with its
Q-values. The states come in rounds as in DAgger (Ross et al. 2011, 1011.0686): the teacher plays
the first rounds, the student the later ones, and the states of all rounds are learned from
together. A network on grids is trained, and plays, as it will be deployed.
"""

from __future__ import annotations

import copy
import math
from enum import StrEnum
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from slimq.core.observation import Observations
from slimq.core.qfunction import QValues
from slimq.networks.hardware import flushed_denormals, resolve_precision
from slimq.networks.qnetwork import MixedPrecision, QNetwork, arrange
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.context import PassContext, ProgressBar
from slimq_compression.network.straight_through import HeldNetwork

LABEL_BATCH = 256


class Loss(StrEnum):
    """What is minimised."""

    KL = "kl"
    NLL = "nll"
    REGRET = "regret"
    HUBER = "huber"
    MSE = "mse"


class DistillationParams(BaseModel):
    """The bounds are wide; the recipes say what works."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: Loss = Field(
        default=Loss.KL,
        description="kl: of policies at a temperature; nll: of the teacher's greedy action; "
        "regret: what the student loses by the teacher's Q-values; huber, mse: of Q-values",
    )
    temperature: float = Field(
        default=0.05,
        gt=0.0,
        le=100.0,
        description="tau of kl, nll and regret, in units of Q-values",
    )
    q_weight: float = Field(
        default=1.0,
        ge=0.0,
        le=1_000.0,
        description="weight of the Huber term beside kl, nll and regret",
    )
    rounds: int = Field(default=5, ge=1, le=1_000, description="of play, then updates")
    teacher_rounds: int = Field(
        default=1, ge=0, le=1_000, description="first rounds, which the teacher plays"
    )
    states: int = Field(default=3_000, ge=1, le=1_000_000, description="kept from each round")
    keep_every: int = Field(
        default=4, ge=1, le=1_000, description="steps played for each state kept"
    )
    replay_states: int = Field(
        default=20_000, ge=1, le=10_000_000, description="most states kept, of all rounds"
    )
    updates: int = Field(default=1_000, ge=1, le=10_000_000, description="in each round")
    batch_size: int = Field(default=64, ge=1, le=65_536, description="states in an update")
    learning_rate: float = Field(
        default=5e-4, gt=0.0, le=1.0, description="of Adam at first; falls to 0 along a cosine"
    )
    gradient_clip: float = Field(
        default=10.0, gt=0.0, le=1e6, description="largest norm of a gradient"
    )
    epsilon: float = Field(
        default=0.05, ge=0.0, le=1.0, description="probability of a random action in play"
    )
    activation_bits: int | None = Field(
        default=None,
        ge=2,
        le=8,
        description="quantize activations in training too, and learn their ranges; null: do not",
    )
    slimming: float = Field(
        default=0.0,
        ge=0.0,
        le=10.0,
        description="weight of the L1 norm of batch normalization's scales (Liu et al. 2017)",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="fp32", description="of the updates; auto: bf16 where the hardware computes in it"
    )

    @model_validator(mode="after")
    def _check(self) -> DistillationParams:
        if self.replay_states < self.states:
            raise ValueError("replay_states must hold at least the states of one round")
        return self


def distil(network: QNetwork, params: DistillationParams, context: PassContext) -> QNetwork:
    """The network, trained and on its grids; the given one stays as it is.

    Args:
        network: the student.
        params: how.
        context: the teacher, and who plays.
    """
    student = arrange(copy.deepcopy(network)).to(context.device)
    teacher = arrange(copy.deepcopy(context.teacher)).to(context.device).eval()
    held = HeldNetwork(student, params.activation_bits, context.device)
    player, expert = (TorchPolicy(n, context.device) for n in (student, teacher))
    learner = _Learner(held, params, context)
    replay = Replay(params.replay_states, context.generator)
    with context.progress("finetune", params.rounds * params.updates, "update") as bar:
        for index in range(params.rounds):
            student.eval()
            with held.projected():
                states = context.collect.states(
                    expert if index < params.teacher_rounds else player,
                    params.states,
                    epsilon=params.epsilon,
                    keep_every=params.keep_every,
                )
            replay.add(states, torch.from_numpy(label(expert, states)))
            student.train()
            with flushed_denormals():
                learner.learn(replay, bar, f"round {index + 1}/{params.rounds}")
    trained = copy.deepcopy(network)
    held.write_to(trained)
    return trained


def policy_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(softmax(teacher/τ) ‖ softmax(student/τ)) · τ, mean over `(batch, actions)` Q-values.

    Times τ the gradient is a difference of probabilities, of the same size at every temperature.
    """
    target = F.log_softmax(teacher / temperature, dim=1)
    own = F.log_softmax(student / temperature, dim=1)
    return temperature * F.kl_div(own, target, reduction="batchmean", log_target=True)


def expected_regret(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Σ_a π(a)·(max q_T − q_T(a)) with π = softmax(student/τ), mean over `(batch, actions)` values.

    Actions that are worth the same cost nothing, whichever is taken: the cost-sensitive loss of
    AggreVaTe (Ross & Bagnell 2014, 1406.5979; differentiable: Sun et al. 2017, 1703.01030).
    """
    lost = teacher.max(dim=1, keepdim=True).values - teacher
    return (F.softmax(student / temperature, dim=1) * lost).sum(dim=1).mean()


def distillation_loss(student: Tensor, teacher: Tensor, params: DistillationParams) -> Tensor:
    """The loss of `(batch, actions)` Q-values."""
    if params.loss is Loss.MSE:
        return F.mse_loss(student, teacher)
    huber = F.smooth_l1_loss(student, teacher)
    if params.loss is Loss.HUBER:
        return huber
    if params.loss is Loss.NLL:
        greedy = teacher.argmax(dim=1)
        likelihood = F.cross_entropy(student / params.temperature, greedy)
        return params.temperature * likelihood + params.q_weight * huber
    decisions = expected_regret if params.loss is Loss.REGRET else policy_divergence
    return decisions(student, teacher, params.temperature) + params.q_weight * huber


class Replay:
    """States of all rounds with the teacher's Q-values; a full one drops states at random."""

    def __init__(self, capacity: int, generator: np.random.Generator) -> None:
        self.capacity, self.generator = capacity, generator
        self.states: Observations | None = None
        self.labels: Tensor | None = None

    def add(self, states: Observations, labels: Tensor) -> None:
        """Takes a round in: `(states, *shape)` and Q-values `(states, actions)`."""
        if self.states is None or self.labels is None:
            self.states, self.labels = states, labels
            return
        room = max(0, self.capacity - len(states))
        chosen = np.arange(len(self.states))
        if len(chosen) > room:
            chosen = np.sort(self.generator.choice(chosen, room, replace=False))
        joined: Observations = np.concatenate([self.states[chosen], states])
        self.states = joined
        self.labels = torch.cat([self.labels[torch.from_numpy(chosen)], labels])

    def sample(self, size: int) -> tuple[Tensor, Tensor]:
        """A uniform minibatch, with replacement.

        Raises:
            ValueError: nothing was added.
        """
        if self.states is None or self.labels is None:
            raise ValueError("nothing was added")
        rows = self.generator.integers(len(self.states), size=size)
        return torch.from_numpy(self.states[rows]), self.labels[torch.from_numpy(rows)]


class _Learner:
    """Adam with a learning rate that falls along a cosine over all rounds."""

    def __init__(self, held: HeldNetwork, params: DistillationParams, context: PassContext) -> None:
        self.held, self.params, self.device = held, params, context.device
        student = held.network
        precision = resolve_precision(params.precision, context.device)
        self.network = MixedPrecision(student) if precision == "bf16" else student
        self.optimizer = torch.optim.Adam(student.parameters(), lr=params.learning_rate, fused=True)
        self.scales = [m.weight for m in student.modules() if isinstance(m, nn.BatchNorm2d)]
        self.total, self.done = params.rounds * params.updates, 0

    def learn(self, replay: Replay, bar: ProgressBar, note: str) -> None:
        params = self.params
        for _ in range(params.updates):
            progress = self.done / self.total
            rate = 0.5 * params.learning_rate * (1 + math.cos(math.pi * progress))
            self.optimizer.param_groups[0]["lr"] = rate
            self.held.advance(progress)
            states, labels = replay.sample(params.batch_size)
            self.optimizer.zero_grad(set_to_none=True)
            with self.held.projected():
                answers = self.network(states.to(self.device))
                loss = distillation_loss(answers, labels.to(self.device), params)
                if params.slimming:
                    loss = loss + params.slimming * sum(scale.abs().sum() for scale in self.scales)
                loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.held.network.parameters(), params.gradient_clip)
            self.optimizer.step()
            self.done += 1
            if self.done % 50 == 0:
                bar.set_postfix_str(f"{note}, loss {loss.item():.2e}", refresh=False)
            bar.update(1)


def label(teacher: TorchPolicy, states: Observations) -> QValues:
    """The teacher's Q-values `(states, actions)`, in batches."""
    parts = [
        teacher(states[start : start + LABEL_BATCH]) for start in range(0, len(states), LABEL_BATCH)
    ]
    return np.concatenate(parts)
