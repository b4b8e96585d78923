"""Specifications of single layers, and their output shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)


def without_layer_norm(values: dict[str, Any]) -> dict[str, Any]:
    """Omits the later option if it is off, so that records of older recipes stay the same."""
    return (
        values
        if values.get("layer_norm")
        else {k: v for k, v in values.items() if k != "layer_norm"}
    )


Width = Annotated[int, Field(ge=1, le=65_536)]
Shape = tuple[int, int, int]
"""Channels, height, width."""


class ConvLayer(BaseModel):
    """A convolution with optional normalization and activation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["conv"] = Field(
        default="conv", description="a convolution; `kind` may be omitted"
    )
    channels: Width = Field(description="output channels")
    kernel: int = Field(ge=1, le=32, description="rows and columns of the kernel")
    stride: int = Field(default=1, ge=1, le=32, description="step of the kernel, in pixels")
    padding: int = Field(default=0, ge=0, le=32, description="zeros on each side")
    groups: Width = Field(
        default=1, description="groups of channels; as many as input channels: depthwise"
    )
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

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_layer_norm(handler(self))


class ShuffleLayer(BaseModel):
    """Permutes channels across `groups` groups (Zhang et al. 2018)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["shuffle"] = Field(default="shuffle", description="a channel shuffle")
    groups: Width = Field(description="groups of channels; must divide the channels")


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

    kind: Literal["residual"] = Field(default="residual", description="a residual block")
    layers: tuple[InnerLayer, ...] = Field(
        min_length=1, max_length=8, description="layers whose output the input is added to"
    )


Layer = Annotated[
    Annotated[ConvLayer, Tag("conv")]
    | Annotated[ShuffleLayer, Tag("shuffle")]
    | Annotated[ResidualLayer, Tag("residual")],
    Discriminator(_kind_of),
]


class DenseLayer(BaseModel):
    """A dense layer with options; without activation, the bottleneck of a factorized layer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: Width = Field(description="outputs")
    layer_norm: bool = Field(
        default=False, description="layer normalization follows (Ba et al. 2016)"
    )
    activation: bool = Field(default=True, description="the body's activation follows")

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_layer_norm(handler(self))


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
            ValueError: a span is empty or exceeds the shape; the error names the field.
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


def shape_after(layer: ConvLayer | ShuffleLayer | ResidualLayer, shape: Shape, place: str) -> Shape:
    """Computes a layer's output shape `(channels, height, width)`.

    Args:
        layer: the layer.
        shape: its input shape.
        place: the layer's place in errors.

    Raises:
        ValueError: the layer does not fit the shape; the error names the field.
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


def dense_layers(hidden: Sequence[int | DenseLayer]) -> tuple[DenseLayer, ...]:
    """The dense layers, all as `DenseLayer`."""
    return tuple(
        layer if isinstance(layer, DenseLayer) else DenseLayer(width=layer) for layer in hidden
    )
