"""Specifications of Q-networks, as stored in checkpoints and configurations.

A convolutional body is a list of layers: convolutions (plain, grouped, depthwise, with or without
batch normalization), channel shuffles, and residual blocks of these. That covers the Nature
network, MobileNet- and ShuffleNet-style networks, and the bottlenecks of low-rank factorizations.
Observations with named parts go through one encoder each, or unchanged, into common dense layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from slimq.core.observation import Dtype, ObservationPart

Width = Annotated[int, Field(ge=1, le=65_536)]
Shape = tuple[int, int, int]
"""Channels, height, width."""
Activation = Literal["relu", "leaky_relu", "elu", "silu", "gelu", "tanh"]
"""With the constants of torch: a slope of 0.01 for LeakyReLU, α = 1 for ELU, the exact GELU."""


class ConvLayer(BaseModel):
    """A convolution with optional normalization and activation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["conv"] = "conv"
    channels: Width
    kernel: int = Field(ge=1, le=32)
    stride: int = Field(default=1, ge=1, le=32)
    padding: int = Field(default=0, ge=0, le=32, description="zeros on each side")
    groups: Width = Field(default=1, description="equal to the input channels: depthwise")
    batch_norm: bool = Field(default=False, description="batch normalization follows")
    layer_norm: bool = Field(
        default=False,
        description="layer normalization of channels, rows and columns follows (Ba et al. 2016)",
    )
    activation: bool = Field(default=True, description="the body's activation follows")

    @model_validator(mode="after")
    def _check(self) -> ConvLayer:
        if self.batch_norm and self.layer_norm:
            raise ValueError("give batch_norm or layer_norm, not both")
        return self


class ShuffleLayer(BaseModel):
    """Permutes channels across `groups` groups (Zhang et al. 2018)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["shuffle"] = "shuffle"
    groups: Width


def _kind_of(value: Any) -> str:
    """The discriminator tag of a layer; a table without `kind` is a convolution."""
    kind = value.get("kind", "conv") if isinstance(value, dict) else getattr(value, "kind", "conv")
    return kind if kind in ("conv", "shuffle", "residual") else "conv"


InnerLayer = Annotated[
    Annotated[ConvLayer, Tag("conv")] | Annotated[ShuffleLayer, Tag("shuffle")],
    Discriminator(_kind_of),
]


class ResidualLayer(BaseModel):
    """Adds its input to the output of its layers, which must preserve the shape."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["residual"] = "residual"
    layers: tuple[InnerLayer, ...] = Field(min_length=1, max_length=8)


Layer = Annotated[
    Annotated[ConvLayer, Tag("conv")]
    | Annotated[ShuffleLayer, Tag("shuffle")]
    | Annotated[ResidualLayer, Tag("residual")],
    Discriminator(_kind_of),
]


class DenseLayer(BaseModel):
    """A dense layer with options; without activation, the bottleneck of a factorized layer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: Width
    layer_norm: bool = Field(
        default=False, description="layer normalization follows (Ba et al. 2016)"
    )
    activation: bool = Field(default=True, description="the body's activation follows")


Hidden = Annotated[
    tuple[Width | DenseLayer, ...],
    Field(max_length=16, description="widths of the dense layers"),
]


Span = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]]


class Window(BaseModel):
    """The part of a frame stack that a network sees; each span is half-open.

    Irrelevant input still costs time: the score above the field or, for a network that needs
    velocity but not acceleration, the older frames.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: Span | None = Field(default=None, description="frames of the stack; null for all")
    rows: Span | None = Field(default=None, description="rows of each frame; null for all")
    columns: Span | None = Field(default=None, description="columns of each frame; null for all")

    def spans(self, shape: Shape) -> tuple[Span, Span, Span]:
        """The spans within observations of `shape`.

        Raises:
            ValueError: a span is empty or exceeds the shape; names the field.
        """
        found: list[Span] = []
        for name, size in zip(("channels", "rows", "columns"), shape, strict=True):
            span: Span | None = getattr(self, name)
            start, stop = span or (0, size)
            if not start < stop <= size:
                expected = f"expected start < stop <= {size}"
                raise ValueError(f"window.{name}: {expected}, received {start}, {stop}")
            found.append((start, stop))
        return found[0], found[1], found[2]


class ConvSpec(BaseModel):
    """Convolutions, then dense layers, as in the Nature network (Mnih et al. 2015)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["conv"] = "conv"
    window: Window | None = Field(
        default=None, description="part of the frames that the network sees; null for all"
    )
    background: int = Field(
        default=0,
        ge=0,
        le=255,
        description="pixel value treated as zero; the exporter folds it into the first bias",
    )
    channels: Literal["first", "last"] | None = Field(
        default=None,
        description="axis of the channels in an image; the graph transposes those with the "
        "channels last; null: first",
    )
    convolutions: tuple[Layer, ...] = Field(min_length=1, max_length=32)
    hidden: Hidden
    activation: Activation = Field(default="relu", description="nonlinearity between layers")


class MLPSpec(BaseModel):
    """Dense layers with activations between them; takes observations of any shape, flattened."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["mlp"] = "mlp"
    hidden: Hidden
    activation: Activation = Field(default="relu", description="nonlinearity between layers")


Encoder = Annotated[ConvSpec | MLPSpec, Field(discriminator="kind")]


class MultiInputSpec(BaseModel):
    """Named parts, each with its own encoder or flattened as it is, then common dense layers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["multi"] = "multi"
    encoders: dict[str, Encoder] = Field(
        min_length=1, max_length=64, description="by name of the part; the others are flattened"
    )
    hidden: Hidden = Field(description="widths of the dense layers after the concatenation")
    activation: Activation = Field(default="relu", description="nonlinearity of the dense layers")


Body = Annotated[ConvSpec | MLPSpec | MultiInputSpec, Field(discriminator="kind")]


class Atoms(BaseModel):
    """A categorical distribution of the return (C51, Bellemare et al. 2017), as its mean."""

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
        default=None, description="distribution of the return that Q-values are the mean of"
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
    """(x - mean) / deviation for every element of a float observation, then clipped.

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
        default=255.0, gt=0.0, description="uint8 observations without parts are divided by it"
    )
    divisors: dict[str, Annotated[float, Field(gt=0.0)]] = Field(
        default_factory=dict, description="parts are divided by these, by name; others are not"
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
        encoder = self.body.encoders.get(part.name) if self.body.kind == "multi" else None
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


def dense_layers(hidden: Sequence[int | DenseLayer]) -> tuple[DenseLayer, ...]:
    """Dense layers, all as `DenseLayer`."""
    return tuple(
        layer if isinstance(layer, DenseLayer) else DenseLayer(width=layer) for layer in hidden
    )


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
        ValueError: they do not; names the field.
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


def shape_after(layer: ConvLayer | ShuffleLayer | ResidualLayer, shape: Shape, place: str) -> Shape:
    """Computes a layer's output shape `(channels, height, width)`.

    Args:
        layer: the layer.
        shape: its input shape.
        place: the layer's place in errors.

    Raises:
        ValueError: the layer does not fit the shape; names the field.
    """
    channels, height, width = shape
    if isinstance(layer, ResidualLayer):
        inner = shape
        for index, part in enumerate(layer.layers):
            inner = shape_after(part, inner, f"{place}.layers[{index}]")
        if inner != shape:
            problem = f"must preserve the shape {shape}, but change it to {inner}"
            raise ValueError(f"{place}.layers: {problem}")
        return shape
    if channels % layer.groups:
        raise ValueError(f"{place}.groups: must divide the {channels} input channels")
    if isinstance(layer, ShuffleLayer):
        return shape
    if layer.channels % layer.groups:
        raise ValueError(f"{place}.groups: must divide the {layer.channels} output channels")
    height, width = height + 2 * layer.padding, width + 2 * layer.padding
    if layer.kernel > min(height, width):
        expected = f"expected at most {min(height, width)}, the padded input size"
        raise ValueError(f"{place}.kernel: {expected}, received {layer.kernel}")
    return (
        layer.channels,
        (height - layer.kernel) // layer.stride + 1,
        (width - layer.kernel) // layer.stride + 1,
    )


NATURE = ConvSpec(
    convolutions=(
        ConvLayer(channels=32, kernel=8, stride=4),
        ConvLayer(channels=64, kernel=4, stride=2),
        ConvLayer(channels=64, kernel=3, stride=1),
    ),
    hidden=(512,),
)
"""The network of Mnih et al. 2015: 1,687,206 parameters with 84×84×4 frames and six actions."""
