"""Distills a teacher, the full policy or another, into a network: losses, replay, updates.

Policy distillation after Rusu et al. 2015 (1511.06295): the teacher labels states with its
Q-values. States are collected in rounds as in DAgger (Ross et al. 2011, 1011.0686): the teacher
plays the first rounds, the student the later ones, and the student learns from all of them. A
network on grids is trained, and plays, as it will be deployed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Literal

import numpy as np
import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from torch import Tensor, nn
from torch.nn import functional as F

from slimq.core.observation import Observations
from slimq.core.qfunction import QFunction, QValues
from slimq.networks.hardware import flushed_denormals, resolve_precision
from slimq.networks.qnetwork import MixedPrecision, QNetwork, arrange
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.context import PassContext, ProgressBar
from slimq_compression.network.disturbance import (
    Disturb,
    Disturber,
    conditions_of,
    make_disturber,
)
from slimq_compression.network.q_scale import QScale, Units, measure_scale, scale_outputs
from slimq_compression.network.straight_through import LatentNetwork

LABEL_BATCH = 256
ABSOLUTE = QScale()


LATER_OPTIONS: Mapping[str, tuple[object, ...]] = {
    "units": (Units.ABSOLUTE,),
    "disturb": (None,),
    "conditions": ((), []),
    "labels": ("clean",),
}
"""Options that older recipes lack, with the values that have no effect."""


def without_later_options(values: dict[str, Any]) -> dict[str, Any]:
    """Omits later options that are off, so that records of older recipes stay the same."""
    return {key: value for key, value in values.items() if value not in LATER_OPTIONS.get(key, ())}


class Loss(StrEnum):
    """Distillation loss."""

    KL = "kl"
    NLL = "nll"
    REGRET = "regret"
    HUBER = "huber"
    MSE = "mse"


class Labels(StrEnum):
    """The states whose Q-values are learned."""

    CLEAN = "clean"
    DISTURBED = "disturbed"


class DistillationParams(BaseModel):
    """Parameters of distillation. Bounds are wide; see the recipes for values that work."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: Loss = Field(
        default=Loss.KL,
        description="kl: between policies at a temperature; nll: of the teacher's greedy action; "
        "regret: expected regret under the teacher's Q-values; huber, mse: on Q-values",
    )
    units: Units = Field(
        default=Units.TEACHER,
        description="teacher: temperature in multiples of the teacher's median difference between "
        "the best and the worst action, errors of Q-values in multiples of their standard "
        "deviation; absolute: both in Q-values",
    )
    temperature: float = Field(
        default=0.5,
        gt=0.0,
        le=100.0,
        description="temperature tau of kl, nll and regret, in `units`",
    )
    q_weight: float = Field(
        default=0.5,
        ge=0.0,
        le=1_000.0,
        description="weight of the Huber term added to kl, nll and regret",
    )
    rounds: int = Field(default=5, ge=1, le=1_000, description="rounds of play and updates")
    teacher_rounds: int = Field(
        default=1, ge=0, le=1_000, description="number of initial rounds played by the teacher"
    )
    states: int = Field(default=3_000, ge=1, le=1_000_000, description="states kept per round")
    keep_every: int = Field(default=4, ge=1, le=1_000, description="steps played per state kept")
    replay_states: int = Field(
        default=20_000, ge=1, le=10_000_000, description="maximum states kept over all rounds"
    )
    updates: int = Field(default=1_000, ge=1, le=10_000_000, description="updates per round")
    batch_size: int = Field(default=64, ge=1, le=65_536, description="states per update")
    learning_rate: float = Field(
        default=5e-4,
        gt=0.0,
        le=1.0,
        description="initial learning rate of Adam; cosine decay to 0",
    )
    gradient_clip: float = Field(default=10.0, gt=0.0, le=1e6, description="maximum gradient norm")
    epsilon: float = Field(
        default=0.05, ge=0.0, le=1.0, description="probability of a random action in play"
    )
    activation_bits: int | None = Field(
        default=None,
        ge=2,
        le=8,
        description="also quantize activations in training and learn their ranges; null: off",
    )
    slimming: float = Field(
        default=0.0,
        ge=0.0,
        le=10.0,
        description="weight of the L1 norm of batch normalization's scales (Liu et al. 2017)",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="fp32",
        description="precision of the updates; auto: bf16 if the hardware supports it",
    )
    disturb: Disturb | None = Field(
        default=None, description="disturbances of sampled states; null: none"
    )
    conditions: tuple[str, ...] = Field(
        default=(),
        max_length=32,
        description="conditions under which half of the episodes are played, such as "
        "'standard' or 'sticky=0.25'; the network sees the disturbed observations",
    )
    labels: Labels = Field(
        default=Labels.CLEAN,
        description="states whose Q-values are the labels of disturbed states; clean: the states "
        "before the disturbance; disturbed: the disturbed states",
    )

    @model_validator(mode="after")
    def _check(self) -> DistillationParams:
        if self.replay_states < self.states:
            raise ValueError("replay_states must hold at least the states of one round")
        return self

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_later_options(handler(self))


def distil(network: QNetwork, params: DistillationParams, context: PassContext) -> QNetwork:
    """Trains a copy of the network by distillation; the copy stays on its grids.

    Args:
        network: the student; not modified.
        params: parameters of the distillation.
        context: provides the teacher and the collector.
    """
    scale = measure_scale(context.calibration.q_values, params.units)
    unit = scale.unit
    conditions = conditions_of(params.conditions, context.observation, "finetune")
    student = arrange(copy.deepcopy(network)).to(context.device)
    scale_outputs(student, 1.0 / unit)
    latent = LatentNetwork(student, params.activation_bits, context.device)
    player, expert = TorchPolicy(student, context.device), context.expert()

    def label_states(states: Observations) -> Tensor:
        return torch.from_numpy(label(expert, states)) / unit

    learner = _Learner(latent, params, scale.divided(unit), context, label_states)
    replay = Replay(params.replay_states, context.generator)
    with context.progress("finetune", params.rounds * params.updates, "update") as bar:
        for index in range(params.rounds):
            student.eval()
            with latent.projected():
                states = context.collect.states(
                    expert if index < params.teacher_rounds else player,
                    params.states,
                    epsilon=params.epsilon,
                    keep_every=params.keep_every,
                    conditions=conditions,
                )
            clean = params.labels is Labels.CLEAN
            replay.add(states.arrived, label_states(states.present if clean else states.arrived))
            student.train()
            with flushed_denormals():
                learner.learn(replay, bar, f"round {index + 1}/{params.rounds}")
    trained = copy.deepcopy(network)
    scale_outputs(trained, 1.0 / unit)
    latent.write_to(trained)
    scale_outputs(trained, unit)
    return trained


def policy_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(softmax(teacher/τ) ‖ softmax(student/τ)) · τ, mean over `(batch, actions)` Q-values.

    The factor τ makes the gradient a difference of probabilities, whose size does not depend on τ.
    """
    target = F.log_softmax(teacher / temperature, dim=1)
    own = F.log_softmax(student / temperature, dim=1)
    return temperature * F.kl_div(own, target, reduction="batchmean", log_target=True)


def expected_regret(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Σ_a π(a)·(max q_T − q_T(a)) with π = softmax(student/τ), mean over `(batch, actions)` values.

    Choosing among equally good actions costs nothing: this is the cost-sensitive loss of
    AggreVaTe (Ross & Bagnell 2014, 1406.5979; differentiable: Sun et al. 2017, 1703.01030).
    """
    lost = teacher.max(dim=1, keepdim=True).values - teacher
    return (F.softmax(student / temperature, dim=1) * lost).sum(dim=1).mean()


def distillation_loss(
    student: Tensor, teacher: Tensor, params: DistillationParams, scale: QScale = ABSOLUTE
) -> Tensor:
    """The loss on `(batch, actions)` Q-values.

    Args:
        student: the student's Q-values.
        teacher: the teacher's.
        params: the loss and its weights.
        scale: temperatures are in multiples of its gap, errors in multiples of its spread.
    """
    errors = student / scale.spread, teacher / scale.spread
    if params.loss is Loss.MSE:
        return F.mse_loss(*errors)
    huber = F.smooth_l1_loss(*errors)
    if params.loss is Loss.HUBER:
        return huber
    student, teacher = student / scale.gap, teacher / scale.gap
    if params.loss is Loss.NLL:
        greedy = teacher.argmax(dim=1)
        likelihood = F.cross_entropy(student / params.temperature, greedy)
        return params.temperature * likelihood + params.q_weight * huber
    decisions = expected_regret if params.loss is Loss.REGRET else policy_divergence
    return decisions(student, teacher, params.temperature) + params.q_weight * huber


class Replay:
    """States of all rounds, with the teacher's Q-values; drops old states at random when full."""

    def __init__(self, capacity: int, generator: np.random.Generator) -> None:
        self.capacity, self.generator = capacity, generator
        self.states: Observations | None = None
        self.labels: Tensor | None = None

    def add(self, states: Observations, labels: Tensor) -> None:
        """Adds a round: states `(states, *shape)` and Q-values `(states, actions)`."""
        if self.states is None or self.labels is None:
            self.states, self.labels = states, labels
            return
        capacity = max(0, self.capacity - len(states))
        chosen = np.arange(len(self.states))
        if len(chosen) > capacity:
            chosen = np.sort(self.generator.choice(chosen, capacity, replace=False))
        joined: Observations = np.concatenate([self.states[chosen], states])
        self.states = joined
        self.labels = torch.cat([self.labels[torch.from_numpy(chosen)], labels])

    def sample(self, size: int) -> tuple[Tensor, Tensor]:
        """Samples a minibatch uniformly, with replacement.

        Raises:
            ValueError: the replay is empty.
        """
        if self.states is None or self.labels is None:
            raise ValueError("the replay is empty")
        rows = self.generator.integers(len(self.states), size=size)
        return torch.from_numpy(self.states[rows]), self.labels[torch.from_numpy(rows)]


class _Learner:
    """Adam with cosine decay of the learning rate over all rounds."""

    def __init__(
        self,
        latent: LatentNetwork,
        params: DistillationParams,
        scale: QScale,
        context: PassContext,
        label_states: Callable[[Observations], Tensor],
    ) -> None:
        self.latent, self.params, self.device = latent, params, context.device
        self.scale = scale
        student = latent.network
        precision = resolve_precision(params.precision, context.device)
        self.network = MixedPrecision(student) if precision == "bf16" else student
        self.optimizer = torch.optim.Adam(student.parameters(), lr=params.learning_rate, fused=True)
        self.scales = [m.weight for m in student.modules() if isinstance(m, nn.BatchNorm2d)]
        self.total, self.done = params.rounds * params.updates, 0
        self.label_states = label_states
        self.disturb: Disturber | None = None
        if params.disturb is not None:
            self.disturb = make_disturber(params.disturb, context, student.spec, "finetune.disturb")

    def _sample(self, replay: Replay) -> tuple[Tensor, Tensor]:
        """A minibatch of states, disturbed if the parameters say so, and their labels."""
        states, labels = replay.sample(self.params.batch_size)
        if self.disturb is None:
            return states, labels
        disturbed = self.disturb(states.numpy())
        if self.params.labels is Labels.DISTURBED:
            labels = self.label_states(disturbed)
        return torch.from_numpy(disturbed), labels

    def learn(self, replay: Replay, bar: ProgressBar, note: str) -> None:
        params = self.params
        for _ in range(params.updates):
            progress = self.done / self.total
            rate = 0.5 * params.learning_rate * (1 + math.cos(math.pi * progress))
            self.optimizer.param_groups[0]["lr"] = rate
            self.latent.advance(progress)
            states, labels = self._sample(replay)
            self.optimizer.zero_grad(set_to_none=True)
            with self.latent.projected():
                q_values = self.network(states.to(self.device))
                loss = distillation_loss(q_values, labels.to(self.device), params, self.scale)
                if params.slimming:
                    loss = loss + params.slimming * sum(scale.abs().sum() for scale in self.scales)
                loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.latent.network.parameters(), params.gradient_clip)
            self.optimizer.step()
            self.done += 1
            if self.done % 50 == 0:
                bar.set_postfix_str(f"{note}, loss {loss.item():.2e}", refresh=False)
            bar.update(1)


def label(teacher: QFunction, states: Observations) -> QValues:
    """The teacher's Q-values `(states, actions)`, in batches."""
    parts = [
        teacher(states[start : start + LABEL_BATCH]) for start in range(0, len(states), LABEL_BATCH)
    ]
    return np.concatenate(parts)
