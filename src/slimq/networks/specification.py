"""Specifications of Q-networks, as stored in checkpoints and configurations.

A convolutional body is a list of layers: convolutions (plain, grouped, depthwise, with or without
batch normalization), channel shuffles, and residual blocks of these. That covers the Nature
network, MobileNet- and ShuffleNet-style networks, and the bottlenecks of low-rank factorizations.
Observations with named parts go through one encoder each, or unchanged, into common dense layers.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slimq.core.observation import Dtype, ObservationPart
from slimq.networks.layers import (
    ConvLayer,
    DenseLayer,
    Hidden,
    Layer,
    Shape,
    Window,
    dense_layers,
    shape_after,
)

Activation = Literal["relu", "leaky_relu", "elu", "silu", "gelu", "tanh"]
"""Activations with torch's constants: slope 0.01 for LeakyReLU, α = 1 for ELU, the exact GELU."""


class ConvSpec(BaseModel):
    """Convolutions, then dense layers, as in the Nature network (Mnih et al. 2015)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["conv"] = Field(default="conv", description="convolutions, for images")
    window: Window | None = Field(
        default=None, description="part of the frame stack that the network sees; null for all"
    )
    background: int = Field(
        default=0,
        ge=0,
        le=255,
        description="pixel value treated as zero; the exporter folds it into the first bias",
    )
    channels: Literal["first", "last"] | None = Field(
        default=None,
        description="position of the channels in an image; the graph moves them first if they "
        "are last; null: first",
    )
    convolutions: tuple[Layer, ...] = Field(
        min_length=1, max_length=32, description="layers before the dense ones"
    )
    hidden: Hidden
    activation: Activation = Field(default="relu", description="nonlinearity between layers")


class MLPSpec(BaseModel):
    """Dense layers with activations between them, for flattened observations of any shape."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["mlp"] = Field(default="mlp", description="dense layers, for anything")
    hidden: Hidden
    activation: Activation = Field(default="relu", description="nonlinearity between layers")


Encoder = Annotated[ConvSpec | MLPSpec, Field(discriminator="kind")]


class MultiInputSpec(BaseModel):
    """Encoders for named parts, others of which are flattened, then common dense layers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["multi"] = Field(
        default="multi", description="encoders, for observations with named parts"
    )
    encoders: dict[str, Encoder] = Field(
        min_length=1,
        max_length=64,
        description="encoders by name of the part; other parts are flattened",
    )
    hidden: Hidden = Field(description="widths of the dense layers after the concatenation")
    activation: Activation = Field(default="relu", description="nonlinearity of the dense layers")


Body = Annotated[ConvSpec | MLPSpec | MultiInputSpec, Field(discriminator="kind")]


class Atoms(BaseModel):
    """The mean of a categorical distribution of the return (C51, Bellemare et al. 2017)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    count: int = Field(ge=2, le=1_024, description="atoms per action")
    low: float = Field(description="value of the first atom")
    high: float = Field(description="value of the last atom")

    @model_validator(mode="after")
    def _check(self) -> Atoms:
        if not self.low < self.high:
            raise ValueError(f"expected low < high, received {self.low:g} and {self.high:g}")
        return self


class HeadSpec(BaseModel):
    """The layers from the last hidden activation to the Q-values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dueling: bool = Field(
        default=False,
        description="Q = V + A - mean A, from two streams (Wang et al. 2016, equation 9)",
    )
    hidden: Hidden = Field(default=(), description="widths of each stream's own dense layers")
    atoms: Atoms | None = Field(
        default=None, description="distribution of the return, whose mean is the Q-value"
    )

    @model_validator(mode="after")
    def _check(self) -> HeadSpec:
        if self.hidden and not self.dueling:
            raise ValueError("hidden: expected none without dueling; give them to the network")
        return self

    @property
    def is_linear(self) -> bool:
        """Whether it is a single dense layer."""
        return not self.dueling and self.atoms is None


class Normalization(BaseModel):
    """Normalization of every element of a float observation: (x − mean) / deviation, then clipped.

    The statistics are buffers of the network.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    clip: float | None = Field(
        default=None, gt=0.0, description="largest absolute value; null: not clipped"
    )


class QNetworkSpec(BaseModel):
    """A complete Q-network specification: input, body, head."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    body: Body
    observation_shape: tuple[int, ...] = Field(min_length=1)
    observation_dtype: Dtype
    observation_parts: tuple[ObservationPart, ...] | None = Field(
        default=None, description="parts of a flat observation, as in its specification"
    )
    divisor: float = Field(
        default=255.0, gt=0.0, description="divisor of uint8 observations without parts"
    )
    divisors: dict[str, Annotated[float, Field(gt=0.0)]] = Field(
        default_factory=dict, description="divisors of parts, by name; other parts are not divided"
    )
    normalization: Normalization | None = Field(
        default=None, description="normalization of float observations without parts"
    )
    actions: int = Field(ge=1, le=4096)
    head: HeadSpec = Field(default_factory=HeadSpec)

    @property
    def dense_layers(self) -> tuple[DenseLayer, ...]:
        """The dense layers before the head, all as `DenseLayer`."""
        return dense_layers(self.body.hidden)

    @property
    def flat_width(self) -> int:
        """Number of inputs of the first dense layer after the convolutions or encoders."""
        if isinstance(self.body, MLPSpec):
            return self.encoded_width
        if isinstance(self.body, ConvSpec):
            return conv_width(self.body, self.seen_shape)
        return sum(self.part_width(part) for part in self.observation_parts or ())

    @property
    def encoded_width(self) -> int:
        """Number of elements of a flattened observation, with categories one-hot encoded."""
        if self.observation_parts is None:
            return math.prod(self.observation_shape)
        return sum(part.encoded_size for part in self.observation_parts)

    @property
    def seen_shape(self) -> Shape:
        """The input shape of the first convolution of a convolutional network."""
        if not isinstance(self.body, ConvSpec):
            raise TypeError("only a convolutional network sees a window")
        return seen_shape(self.body, self.observation_shape)

    def part_width(self, part: ObservationPart) -> int:
        """Number of values that a part contributes to the common dense layers."""
        body = self.body
        encoder = body.encoders.get(part.name) if isinstance(body, MultiInputSpec) else None
        if encoder is None:
            return part.encoded_size
        if encoder.hidden:
            return dense_layers(encoder.hidden)[-1].width
        if isinstance(encoder, MLPSpec):
            return part.encoded_size
        return conv_width(encoder, seen_shape(encoder, part.shape))

    @model_validator(mode="after")
    def _check_shape(self) -> QNetworkSpec:
        shape, parts = self.observation_shape, self.observation_parts
        if parts is not None and shape != (size := sum(part.size for part in parts),):
            raise ValueError(f"the parts have {size} elements, the observation has shape {shape}")
        if self.normalization and (parts is not None or self.observation_dtype != "float32"):
            raise ValueError("normalization: expected float32 observations without parts")
        if unknown := sorted(set(self.divisors) - {part.name for part in parts or ()}):
            raise ValueError(f"divisors: the observation has no part {unknown[0]!r}")
        if isinstance(self.body, ConvSpec):
            if parts is not None:
                raise ValueError(
                    'a conv network takes one array; for named parts, give kind = "multi" and '
                    "an encoder for the image"
                )
            check_convolutions(self.body, shape)
        elif isinstance(self.body, MultiInputSpec):
            self._check_encoders(self.body)
        return self

    def _check_encoders(self, body: MultiInputSpec) -> None:
        parts = {part.name: part for part in self.observation_parts or ()}
        if unknown := sorted(set(body.encoders) - set(parts)):
            listing = ", ".join(parts) or "none"
            raise ValueError(f"encoders: the observation has no part {unknown[0]!r}, but {listing}")
        for name, encoder in body.encoders.items():
            if isinstance(encoder, ConvSpec):
                try:
                    check_convolutions(encoder, parts[name].shape)
                except ValueError as error:
                    raise ValueError(f"encoders.{name}: {error}") from error
                if parts[name].categories is not None:
                    raise ValueError(f"encoders.{name}: categories have no rows and columns")
                if encoder.background:
                    raise ValueError(f"encoders.{name}.background: expected 0 with several inputs")


def channel_axis(shape: tuple[int, ...]) -> Literal["first", "last"] | None:
    """The position of an image's channels, fewer than its rows and columns; None if ambiguous.

    Args:
        shape: the image's shape, without the batch axis.
    """
    if len(shape) != 3 or shape[0] == shape[2]:
        return None
    if shape[0] < min(shape[1:]):
        return "first"
    return "last" if shape[2] < min(shape[:2]) else None


def seen_shape(body: ConvSpec, shape: tuple[int, ...]) -> Shape:
    """The input shape of the first convolution: the image, channels first, cropped."""
    channels, height, width = shape if body.channels != "last" else (shape[2], *shape[:2])
    if body.window is None:
        return channels, height, width
    sizes = [stop - start for start, stop in body.window.spans((channels, height, width))]
    return sizes[0], sizes[1], sizes[2]


def conv_width(body: ConvSpec, shape: Shape) -> int:
    """Number of values after the convolutions, for an input of `shape`."""
    for layer in body.convolutions:
        shape = shape_after(layer, shape, "")
    return math.prod(shape)


def check_convolutions(body: ConvSpec, shape: tuple[int, ...]) -> None:
    """Checks that convolutions fit images of a shape.

    Raises:
        ValueError: they do not; the error names the field.
    """
    if len(shape) != 3:
        axes = "height, width, channels" if body.channels == "last" else "channels, height, width"
        raise ValueError(f"a conv network takes ({axes}), received shape {shape}")
    first = body.convolutions[0]
    if body.background and (not isinstance(first, ConvLayer) or first.padding):
        raise ValueError("background: the first layer must be a convolution without padding")
    current = seen_shape(body, shape)
    for index, layer in enumerate(body.convolutions):
        current = shape_after(layer, current, f"convolutions[{index}]")


NATURE = ConvSpec(
    convolutions=(
        ConvLayer(channels=32, kernel=8, stride=4),
        ConvLayer(channels=64, kernel=4, stride=2),
        ConvLayer(channels=64, kernel=3, stride=1),
    ),
    hidden=(512,),
)
"""The network of Mnih et al. 2015: 1,687,206 parameters with 84×84×4 frames and six actions."""
