"""Replaces the network with a new one of another architecture, to be trained by later steps.

A small network distilled from a large one plays better than one of its size trained from scratch
(Rusu et al. 2015, "Policy Distillation", 1511.06295, students of 25, 7 and 4 % of the parameters).
The student takes the same observations and returns Q-values of the same actions; its weights are
drawn from the step's seed, and nothing of the given network is kept.

Frames are mostly background: with standard initialization, a first layer's outputs are large
constants with small variations, and the first thousands of updates only remove the constants.
`initial = "data"` does so at once (Salimans & Kingma 2016, 1602.07868, §3; Mishkin & Matas 2016,
1511.06422): layer by layer, every unit's pre-activation gets mean 0 and variance 1 over the
calibration set, and the Q-values get the teacher's mean. `initial = "teacher"` gives Q-values the
teacher's standard deviation as well, so that training starts at the right scale whatever the unit
of reward.

It costs nothing by itself. The student does not play well until it is trained by a following
`finetune`, with more rounds than after pruning, since no trained weights are kept. If the student
is too small for the teacher's function, no amount of training helps.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from slimq.core.errors import InvalidInputError
from slimq.networks.architectures import ARCHITECTURES, Architecture
from slimq.networks.layers import Hidden, Layer, Window
from slimq.networks.qnetwork import QNetwork, derive, named_layers
from slimq.networks.specification import Body, ConvSpec, HeadSpec, QNetworkSpec, channel_axis
from slimq_compression.context import PassContext, evenly
from slimq_compression.network.disturbance import Disturb, make_disturber
from slimq_compression.network.gradients import recording
from slimq_compression.network.shapes import Shape, image_body, measure_view, shape_student

STATES = 256
"""Calibration states used for initialization."""
MIN_DEVIATION = 1e-3
"""Minimum divisor, so that a nearly constant unit is not amplified."""


class Initial(StrEnum):
    """Initialization of the student's weights."""

    TEACHER = "teacher"
    DATA = "data"
    RANDOM = "random"


class Params(BaseModel):
    """Architecture of the student; unset fields are taken from the given network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float | None = Field(
        default=None,
        gt=0.0,
        le=1.0,
        description="weights and biases as a share of the full policy's: the widest student that "
        "fits, of an architecture chosen for the observations",
    )
    shape: Shape = Field(
        default=Shape.FITTED,
        description="with share: fitted, few layers with wide strides; narrowed, the given "
        "network's layers with fewer units",
    )
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
        default=None, description="part of the frame stack that the student sees; null: all"
    )
    background: int = Field(
        default=0, ge=0, le=255, description="pixel value treated as zero, for convolutions"
    )
    hidden: Hidden | None = Field(default=None, description="widths of the hidden dense layers")

    initial: Initial = Field(
        default=Initial.TEACHER,
        description="data: mean 0 and variance 1 per unit on the calibration set; teacher: also "
        "the teacher's mean and standard deviation of Q-values; random: neither",
    )
    disturb: Disturb | None = Field(
        default=None,
        description="disturbances of the calibration states for `initial`, so that the background "
        "is a range of values rather than one; null: none",
    )

    @model_validator(mode="after")
    def _check(self) -> Params:
        layers = (self.architecture, self.convolutions, self.hidden)
        if self.share is not None and any(given is not None for given in layers):
            raise ValueError("give share, or architecture, convolutions and hidden, not both")
        if self.share is None and all(given is None for given in layers):
            raise ValueError("give share, or at least one of architecture, convolutions and hidden")
        if self.share is None and self.shape is not Shape.FITTED:
            raise ValueError("shape requires share")
        if self.architecture is not None and self.convolutions is not None:
            raise ValueError("give architecture or convolutions, not both")
        seen = self.window is not None or bool(self.background)
        if seen and self.convolutions is None and self.share is None:
            raise ValueError("window and background require convolutions or share")
        if self.architecture is None and self.width != 1.0:
            raise ValueError("width requires architecture")
        return self

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omits later options that are off, so that records of older recipes stay the same."""
        values: dict[str, Any] = handler(self)
        if self.share is None:
            del values["share"], values["shape"]
        if self.disturb is None:
            del values["disturb"]
        return values


def apply(network: QNetwork, params: Params, context: PassContext) -> QNetwork:
    """Makes an untrained network, in evaluation mode, for the same observations and actions.

    Raises:
        InvalidInputError: convolutions are given for vectors, or layers do not fit the
            observations.
    """
    if params.share is None:
        spec = student_spec(network.spec, params)
    else:
        most = math.floor(params.share * context.parameters)
        given = network.spec
        if params.shape is Shape.FITTED:  # the given layers may not fit less of the image
            given = _seeing(given, params, context)
        spec = shape_student(given, params.shape, most, "student.share")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        student = derive(network, spec).eval()
    if params.initial is not Initial.RANDOM:
        _fit_to_data(student, params, context)
    return student


def _fit_to_data(student: QNetwork, params: Params, context: PassContext) -> None:
    """Normalizes every unit to mean 0 and variance 1 on calibration states; modifies `student`."""
    chosen = evenly(len(context.calibration), STATES)
    seen = context.states[chosen]
    if params.disturb is not None:
        seen = make_disturber(params.disturb, context, student.spec, "student.disturb")(seen)
    states = torch.from_numpy(seen)
    spread = params.initial is Initial.TEACHER
    wanted = torch.from_numpy(context.calibration.q_values[chosen])
    with torch.no_grad():
        for layer in named_layers(student).values():
            with recording([layer]) as recorded:
                student(states)
            outputs = recorded[layer][1].transpose(0, 1).flatten(1)
            mean, deviation = outputs.mean(dim=1), outputs.std(dim=1).clamp_min(MIN_DEVIATION)
            bias = layer.bias if layer.bias is not None else torch.zeros_like(mean)
            if layer is student.head:
                varied = float(wanted.std(dim=0).mean())
                factor = varied / float(deviation.mean()) if spread and varied else 1.0
                layer.weight *= factor
                bias *= factor
                bias += wanted.mean(dim=0) - mean * factor
                continue
            layer.weight /= deviation.view(-1, *[1] * (layer.weight.dim() - 1))
            bias -= mean
            bias /= deviation


def _seeing(given: QNetworkSpec, params: Params, context: PassContext) -> QNetworkSpec:
    """The given specification with a window and a background measured where none are given."""
    image = image_body(given)
    if image is None:
        return given
    view = measure_view(context.states, image)
    window = params.window or image.window or view.window
    background = params.background or (view.background if given.observation_dtype == "uint8" else 0)
    update = {"window": window, "background": background}
    if isinstance(given.body, ConvSpec):
        return given.model_copy(update={"body": given.body.model_copy(update=update)})
    return given.model_copy(update={"body": image.model_copy(update=update)})


def student_spec(given: QNetworkSpec, params: Params) -> QNetworkSpec:
    """The student's specification: its own body, the given inputs, a linear head.

    Raises the errors of `apply`.
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
    """The position of an image's channels: the given network's, or inferred from the shape."""
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
