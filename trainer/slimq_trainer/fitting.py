"""Fits a network to an environment: inputs, outputs, scales and the position of channels.

Images are (channels, height, width) or (height, width, channels). The channels are the first or
last axis if it is smaller than the other two; otherwise, the configuration must set `channels`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationError

from slimq.core.conditions.catalogue import kind_of
from slimq.core.errors import InvalidInputError
from slimq.core.observation import ObservationSpec
from slimq.environments.description import Properties, examine
from slimq.networks.layers import ConvLayer
from slimq.networks.specification import (
    NATURE,
    Body,
    ConvSpec,
    Encoder,
    MLPSpec,
    MultiInputSpec,
    Normalization,
    QNetworkSpec,
    channel_axis,
    check_convolutions,
)
from slimq_trainer.config import TrainConfig

Channels = Literal["first", "last"]

DENSE = MLPSpec(hidden=(64, 64))
"""Default for observations without images."""
SMALL_IMAGES = ConvSpec(convolutions=(ConvLayer(channels=16, kernel=3),), hidden=(128,))
"""Default for images too small for the Nature network (Young & Tian 2019, section 3)."""
ENCODER_WIDTH = 256
"""Outputs of the default encoder of an image among other parts."""


def network_spec(config: TrainConfig) -> QNetworkSpec:
    """The network specification, with inputs and outputs from the environment.

    Raises:
        InvalidInputError: the environment is unknown or unsupported, its own step limit is below
            the configured one, or the network or the augmentation does not fit it.
        EnvironmentFailure: the environment cannot be made.
    """
    properties = examine(config.environment)
    observation, actions, _ = properties.description
    check_augmentation(config, observation)
    body = config.network or default_body(properties)
    body = arrange_channels(body, properties)
    parts = observation.parts
    scale = {"divisor": observation.high or 1.0} if observation.dtype == "uint8" else {}
    try:
        return QNetworkSpec(
            body=body,
            observation_shape=observation.shape,
            observation_dtype=observation.dtype,
            observation_parts=parts,
            **(scale if parts is None else {}),
            divisors={
                part.name: part.high
                for part in parts or ()
                if part.integer and (part.high or 0) > 1
            },
            normalization=Normalization() if properties.normalized else None,
            actions=len(actions),
            head=config.head,
        )
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        fitting = f"one that fits {config.environment.id}"
        raise InvalidInputError("network", fitting, problem) from error


def check_augmentation(config: TrainConfig, observation: ObservationSpec) -> None:
    """Checks that only frames are augmented: the spread of vectors is unknown before play.

    Raises:
        InvalidInputError: augmentation is configured, and observations are vectors.
    """
    if config.algorithm.augmentation is not None and kind_of(observation) != "frames":
        received = f"the vectors of {config.environment.id}"
        raise InvalidInputError("algorithm.augmentation", "observations that are frames", received)


def default_body(properties: Properties) -> Body:
    """The default body of the network.

    The Nature network for images that are large enough, a small convolution for others, dense
    layers for everything else; each image among other parts gets an encoder.

    Raises:
        InvalidInputError: the position of an image's channels is ambiguous.
    """
    observation = properties.description.observation
    if observation.parts is None:
        image = observation.dtype == "uint8" and len(observation.shape) == 3
        found = _image_body(observation.shape, properties.channels) if image else None
        return found or DENSE
    encoders: dict[str, Encoder] = {}
    for part in observation.parts:
        if part.integer and len(part.shape) == 3:
            body = _image_body(part.shape, None, f"network.encoders.{part.name}")
            if body is not None:
                encoders[part.name] = body.model_copy(update={"hidden": (ENCODER_WIDTH,)})
    return MultiInputSpec(encoders=encoders, hidden=DENSE.hidden) if encoders else DENSE


def arrange_channels(body: Body, properties: Properties) -> Body:
    """The body with the position of channels set for all its convolutions.

    Raises:
        InvalidInputError: the position is wrong for stacked frames, or not set and ambiguous.
    """
    observation = properties.description.observation
    if isinstance(body, ConvSpec):
        return _with_channels(body, observation.shape, properties.channels, "network")
    if isinstance(body, MLPSpec):
        return body
    shapes = {part.name: part.shape for part in observation.parts or ()}
    encoders = {
        name: _with_channels(encoder, shapes[name], None, f"network.encoders.{name}")
        if isinstance(encoder, ConvSpec) and name in shapes
        else encoder
        for name, encoder in body.encoders.items()
    }
    return body.model_copy(update={"encoders": encoders})


def _image_body(
    shape: tuple[int, ...], channels: Channels | None, place: str = "network"
) -> ConvSpec | None:
    """A default body for images; None if even the small one does not fit."""
    for default in (NATURE, SMALL_IMAGES):
        body = _with_channels(default, shape, channels, place)
        try:
            check_convolutions(body, shape)
        except ValueError:
            continue
        return body
    return None


def _with_channels(
    body: ConvSpec, shape: tuple[int, ...], frames: Channels | None, place: str
) -> ConvSpec:
    if frames is not None:
        if body.channels not in (None, frames):
            expected = f'"{frames}", as the channels are stacked frames'
            raise InvalidInputError(f"{place}.channels", expected, f'"{body.channels}"')
        return body
    if body.channels is not None or len(shape) != 3:
        return body
    found = channel_axis(shape)
    if found is None:
        expected = '"first" or "last", as the shape does not tell which axis has the channels'
        raise InvalidInputError(f"{place}.channels", expected, f"nothing, for images {shape}")
    return body.model_copy(update={"channels": found})
