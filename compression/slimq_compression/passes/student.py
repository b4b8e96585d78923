"""Replaces the network by a new one of another architecture, to be trained by later steps.

A small network distilled from a large one plays better than one of its size trained from scratch
(Rusu et al. 2015, "Policy Distillation", 1511.06295, students of 25, 7 and 4 % of the parameters).
The student takes the same observations and returns Q-values of the same actions; its weights are
drawn from the step's seed, and nothing of the given network is kept.

Frames are mostly background: with standard initialization, a first layer's outputs are large
constants with small variations, and the first thousands of updates only remove the constants.
`initial = "data"` does so at once (Salimans & Kingma 2016, 1602.07868, §3; Mishkin & Matas 2016,
1511.06422): layer by layer, every unit's pre-activation gets mean 0 and variance 1 over the
calibration set, and the Q-values get the teacher's mean.

It costs nothing by itself. The student does not play well until it is trained by a following
`finetune`, with more rounds than after pruning, since no trained weights are kept. If the student
is too small for the teacher's function, no amount of training helps.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slimq.core.errors import InvalidInputError
from slimq.networks.architectures import ARCHITECTURES, Architecture
from slimq.networks.layers import Hidden, Layer, Window
from slimq.networks.qnetwork import QNetwork, derive, named_layers
from slimq.networks.specification import Body, ConvSpec, HeadSpec, QNetworkSpec, channel_axis
from slimq_compression.context import PassContext, evenly
from slimq_compression.network.gradients import recording

STATES = 256
"""Calibration states used for initialization."""
MIN_DEVIATION = 1e-3
"""Minimum divisor, so that a nearly constant unit is not amplified."""


class Initial(StrEnum):
    """Initialization of the student's weights."""

    DATA = "data"
    RANDOM = "random"


class Params(BaseModel):
    """Architecture of the student; unset fields are taken from the given network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Architecture | None = Field(
        default=None, description="named architecture, for frames; null: defined by the layers"
    )
    width: float = Field(
        default=1.0, gt=0.0, le=8.0, description="multiplier of the named architecture's widths"
    )
    convolutions: tuple[Layer, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=32,
        description="layers before the dense ones: convolutions, shuffles, residual blocks",
    )
    window: Window | None = Field(
        default=None, description="part of the frames that the student sees; null: all"
    )
    background: int = Field(
        default=0, ge=0, le=255, description="pixel value that counts as zero, for convolutions"
    )
    hidden: Hidden | None = Field(default=None, description="widths of the hidden dense layers")

    initial: Initial = Field(
        default=Initial.DATA,
        description="data: mean 0 and variance 1 per unit on the calibration set; random: as drawn",
    )

    @model_validator(mode="after")
    def _check(self) -> Params:
        if self.architecture is None and self.convolutions is None and self.hidden is None:
            raise ValueError("give at least one of architecture, convolutions and hidden")
        if self.architecture is not None and self.convolutions is not None:
            raise ValueError("give architecture or convolutions, not both")
        if (self.window is not None or self.background) and self.convolutions is None:
            raise ValueError("window and background require convolutions")
        if self.architecture is None and self.width != 1.0:
            raise ValueError("width requires architecture")
        return self


def apply(network: QNetwork, params: Params, context: PassContext) -> QNetwork:
    """Makes an untrained network, in evaluation mode, for the same observations and actions.

    Raises:
        InvalidInputError: convolutions are given for vectors, or layers do not fit the
            observations.
    """
    spec = student_spec(network.spec, params)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        student = derive(network, spec).eval()
    if params.initial is Initial.DATA:
        _fit_to_data(student, context)
    return student


def _fit_to_data(student: QNetwork, context: PassContext) -> None:
    """Normalizes every unit to mean 0 and variance 1 on calibration states; modifies `student`."""
    chosen = evenly(len(context.calibration), STATES)
    states = torch.from_numpy(context.states[chosen])
    wanted = torch.from_numpy(context.calibration.q_values[chosen]).mean(dim=0)
    with torch.no_grad():
        for layer in named_layers(student).values():
            with recording([layer]) as recorded:
                student(states)
            outputs = recorded[layer][1].transpose(0, 1).flatten(1)
            mean, deviation = outputs.mean(dim=1), outputs.std(dim=1).clamp_min(MIN_DEVIATION)
            bias = layer.bias if layer.bias is not None else torch.zeros_like(mean)
            if layer is student.head:
                bias += wanted - mean
                continue
            layer.weight /= deviation.view(-1, *[1] * (layer.weight.dim() - 1))
            bias -= mean
            bias /= deviation


def student_spec(given: QNetworkSpec, params: Params) -> QNetworkSpec:
    """The student's specification: a body of its own, the given inputs, a linear head.

    Raises as `apply`.
    """
    try:
        changed = {"body": _body(given, params), "head": HeadSpec()}
        return QNetworkSpec.model_validate({**dict(given), **changed})
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        fitting = f"layers that fit observations of {given.observation_shape}"
        named = "convolutions" if params.architecture is None else "architecture"
        raise InvalidInputError(f"student.{named}", fitting, problem) from error


def _body(network: QNetworkSpec, params: Params) -> Body:
    given = network.body
    hidden = given.hidden if params.hidden is None else params.hidden
    if params.architecture is None and params.convolutions is None:
        return given.model_copy(update={"hidden": hidden})
    channels = _channels(network)
    if params.architecture is not None:
        body = ARCHITECTURES[params.architecture](params.width)
        update = {"channels": channels}
        return body.model_copy(
            update=update if params.hidden is None else {**update, "hidden": hidden}
        )
    return ConvSpec(
        window=params.window,
        background=params.background,
        channels=channels,
        convolutions=params.convolutions or (),
        hidden=hidden,
    )


def _channels(network: QNetworkSpec) -> Literal["first", "last"] | None:
    """The axis of an image's channels, as in the given network; otherwise by their shape."""
    if isinstance(network.body, ConvSpec):
        return network.body.channels
    if network.observation_parts is not None:
        expected = "one image rather than named parts; give hidden for dense layers"
        raise InvalidInputError("student.convolutions", expected, "parts")
    axis = channel_axis(network.observation_shape)
    if axis is None and len(network.observation_shape) == 3:
        expected = "an image whose channels are fewer than its rows and columns"
        received = f"shape {network.observation_shape}"
        raise InvalidInputError("student.convolutions", expected, received)
    return axis
