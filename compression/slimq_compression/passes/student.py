"""Replaces the network by a fresh one of another architecture, which later steps teach.

A small network that learns from a large one plays better than one of its size that is trained
alone (Rusu et al. 2015, "Policy Distillation", 1511.06295, students of 25, 7 and 4 % of the
parameters). The student takes the same observations and gives Q-values of the same actions; its
weights are drawn from the step's seed, and nothing of the given network stays.

Games are mostly background: drawn as for a training from nothing, a first layer's outputs are large
constants with small changes on them, and the first thousands of updates go into taking those away.
`initial = "data"` does it at once (Salimans & Kingma 2016, 1602.07868, §3; Mishkin & Matas 2016,
1511.06422): layer by layer, every unit's pre-activation gets mean 0 and variance 1 over the
calibration set, and the Q-values the teacher's mean.

Costs nothing by itself. The student does not play until it is taught: `finetune` comes next, with
more rounds than after pruning, since there are no weights to start from. It fails where the student
is too small for the teacher's function, and no amount of teaching helps then.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slimq.core.errors import InvalidInputError
from slimq.networks.architectures import ARCHITECTURES, Architecture
from slimq.networks.qnetwork import QNetwork, named_layers
from slimq.networks.specification import ConvSpec, Hidden, Layer, MLPSpec, QNetworkSpec, Window
from slimq_compression.context import PassContext, evenly
from slimq_compression.network.gradients import recording

STATES = 256
"""Calibration states that the first weights are fitted to."""
LEAST_DEVIATION = 1e-3
"""Below it a unit hardly reacts to anything, and is not made to."""


class Initial(StrEnum):
    """The weights that a student starts with."""

    DATA = "data"
    RANDOM = "random"


class Params(BaseModel):
    """What is not named stays as it is in the given network's architecture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Architecture | None = Field(
        default=None, description="a body by name, for frames; null: as the layers say"
    )
    width: float = Field(
        default=1.0, gt=0.0, le=8.0, description="multiplier of the named architecture's widths"
    )
    convolutions: tuple[Layer, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=32,
        description="layers in front of the dense ones: convolutions, shuffles, residual blocks",
    )
    window: Window | None = Field(
        default=None, description="part of the frames that the student looks at; null: all"
    )
    background: int = Field(
        default=0, ge=0, le=255, description="pixel value that counts as zero, for convolutions"
    )
    hidden: Hidden | None = Field(default=None, description="widths of the hidden dense layers")

    initial: Initial = Field(
        default=Initial.DATA,
        description="data: units of mean 0 and variance 1 on the calibration set; random: as drawn",
    )

    @model_validator(mode="after")
    def _check(self) -> Params:
        if self.architecture is None and self.convolutions is None and self.hidden is None:
            raise ValueError("give architecture, convolutions or hidden")
        if self.architecture is not None and self.convolutions is not None:
            raise ValueError("give architecture or convolutions, not both")
        if (self.window is not None or self.background) and self.convolutions is None:
            raise ValueError("window and background go with convolutions")
        if self.architecture is None and self.width != 1.0:
            raise ValueError("width scales a named architecture: give architecture too")
        return self


def apply(network: QNetwork, params: Params, context: PassContext) -> QNetwork:
    """An untrained network in evaluation mode, for the given one's observations and actions.

    Raises:
        InvalidInputError: convolutions for vectors, or layers that do not fit the observations.
    """
    spec = student_spec(network.spec, params)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        student = QNetwork(spec).eval()
    if params.initial is Initial.DATA:
        _fit_to_data(student, context)
    return student


def _fit_to_data(student: QNetwork, context: PassContext) -> None:
    """Gives every unit mean 0 and variance 1 on the calibration set; changes `student`."""
    chosen = evenly(len(context.calibration), STATES)
    states = torch.from_numpy(context.states[chosen])
    wanted = torch.from_numpy(context.calibration.q_values[chosen]).mean(dim=0)
    with torch.no_grad():
        for layer in named_layers(student).values():
            with recording([layer]) as recorded:
                student(states)
            outputs = recorded[layer][1].transpose(0, 1).flatten(1)
            mean, deviation = outputs.mean(dim=1), outputs.std(dim=1).clamp_min(LEAST_DEVIATION)
            bias = layer.bias if layer.bias is not None else torch.zeros_like(mean)
            if layer is student.head:
                bias += wanted - mean
                continue
            layer.weight /= deviation.view(-1, *[1] * (layer.weight.dim() - 1))
            bias -= mean
            bias /= deviation


def student_spec(given: QNetworkSpec, params: Params) -> QNetworkSpec:
    """The student's specification. Raises as `apply`."""
    try:
        return QNetworkSpec(
            body=_body(given.body, params),
            observation_shape=given.observation_shape,
            observation_dtype=given.observation_dtype,
            actions=given.actions,
        )
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        fitting = f"layers that fit observations of {given.observation_shape}"
        named = "convolutions" if params.architecture is None else "architecture"
        raise InvalidInputError(f"student.{named}", fitting, problem) from error


def _body(given: ConvSpec | MLPSpec, params: Params) -> ConvSpec | MLPSpec:
    hidden = given.hidden if params.hidden is None else params.hidden
    if params.architecture is not None:
        body = ARCHITECTURES[params.architecture](params.width)
        return body if params.hidden is None else body.model_copy(update={"hidden": hidden})
    if params.convolutions is not None:
        return ConvSpec(
            window=params.window,
            background=params.background,
            convolutions=params.convolutions,
            hidden=hidden,
        )
    return given.model_copy(update={"hidden": hidden})
