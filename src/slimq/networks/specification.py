"""Specifications of Q-networks, as stored in checkpoints and configurations.

A convolutional body is a list of layers: convolutions (plain, grouped, depthwise, with or without
batch normalization), channel shuffles, and residual blocks of these. That covers the Nature
network, MobileNet- and ShuffleNet-style networks, and the bottlenecks of low-rank factorizations.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

Width = Annotated[int, Field(ge=1, le=65_536)]
Shape = tuple[int, int, int]
"""Channels, height, width."""


class ConvLayer(BaseModel):
    """A convolution with optional batch normalization and ReLU."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["conv"] = "conv"
    channels: Width
    kernel: int = Field(ge=1, le=32)
    stride: int = Field(default=1, ge=1, le=32)
    padding: int = Field(default=0, ge=0, le=32, description="zeros on each side")
    groups: Width = Field(default=1, description="equal to the input channels: depthwise")
    batch_norm: bool = Field(default=False, description="batch normalization follows")
    activation: bool = Field(default=True, description="a ReLU follows")


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
    """A dense layer with options; without a ReLU it is the bottleneck of a factorized layer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: Width
    activation: bool = Field(default=True, description="a ReLU follows")


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
    convolutions: tuple[Layer, ...] = Field(min_length=1, max_length=32)
    hidden: Hidden


class MLPSpec(BaseModel):
    """Dense layers with ReLUs between them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["mlp"] = "mlp"
    hidden: Hidden


class QNetworkSpec(BaseModel):
    """A complete Q-network specification: body, input and output."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    body: ConvSpec | MLPSpec = Field(discriminator="kind")
    observation_shape: tuple[int, ...] = Field(min_length=1)
    observation_dtype: Literal["uint8", "float32"]
    actions: int = Field(ge=1, le=4096)

    @property
    def dense_layers(self) -> tuple[DenseLayer, ...]:
        """The dense layers before the head, all as `DenseLayer`."""
        return tuple(
            layer if isinstance(layer, DenseLayer) else DenseLayer(width=layer)
            for layer in self.body.hidden
        )

    @property
    def flat_width(self) -> int:
        """Number of inputs of the first dense layer."""
        if isinstance(self.body, MLPSpec):
            return self.observation_shape[0]
        channels, height, width = self.seen_shape
        for layer in self.body.convolutions:
            channels, height, width = shape_after(layer, (channels, height, width), "")
        return channels * height * width

    @property
    def seen_shape(self) -> Shape:
        """The input shape of the first convolution: the observation, cropped to the window."""
        channels, height, width = self.observation_shape
        shape = (channels, height, width)
        if isinstance(self.body, MLPSpec) or self.body.window is None:
            return shape
        sizes = [stop - start for start, stop in self.body.window.spans(shape)]
        return sizes[0], sizes[1], sizes[2]

    @model_validator(mode="after")
    def _check_shape(self) -> QNetworkSpec:
        shape = self.observation_shape
        if isinstance(self.body, MLPSpec):
            if len(shape) != 1:
                raise ValueError(f"an mlp network takes a vector, received shape {shape}")
            return self
        if len(shape) != 3:
            expected = "a conv network takes (channels, height, width)"
            raise ValueError(f"{expected}, received shape {shape}")
        first = self.body.convolutions[0]
        if self.body.background and (not isinstance(first, ConvLayer) or first.padding):
            raise ValueError("background: the first layer must be a convolution without padding")
        current = self.seen_shape
        for index, layer in enumerate(self.body.convolutions):
            current = shape_after(layer, current, f"convolutions[{index}]")
        return self


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
