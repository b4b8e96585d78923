"""The kinds of layers; each has one output and applies its epilogue to every value of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from slimq_compression.export.layers.tensors import Array, Element, View
from slimq_compression.export.layers.weights import Weights

Unary = Literal[
    "relu", "leaky_relu", "elu", "sigmoid", "tanh", "gelu", "exp", "sqrt", "reciprocal", "negate"
]
Binary = Literal["add", "subtract", "multiply", "divide"]
Reduction = Literal["sum", "mean", "softmax", "norm"]


@dataclass(frozen=True)
class Function:
    """A function of one value; `alpha` is the slope or scale of LeakyReLU and ELU."""

    kind: Unary
    alpha: float = 0.0


@dataclass(frozen=True)
class Clip:
    """Limits a value."""

    low: float
    high: float


@dataclass(frozen=True)
class Quantize:
    """Rounds value / scale to the nearest integer, ties to even, adds the zero point and clips."""

    scale: float
    zero: int
    element: Element
    low: int
    high: int


Step = Function | Clip | Quantize
Epilogue = tuple[Step, ...]


@dataclass(frozen=True)
class Layer:
    """The fields common to all layers.

    Attributes:
        inputs: tensors that it reads, constants included.
        output: tensor that it writes completely.
        epilogue: steps applied to each value in order; a `Quantize` comes last.
    """

    inputs: tuple[View, ...]
    output: View
    epilogue: Epilogue = ()

    @property
    def takes_steps(self) -> bool:
        """Whether an epilogue may be added."""
        return True


@dataclass(frozen=True)
class Geometry:
    """The geometry of a convolution; pairs are vertical, horizontal.

    Attributes:
        pads: zero padding above and to the left; that below and to the right follows from the
            output's shape.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int]
    dilations: tuple[int, int]
    groups: int


@dataclass(frozen=True)
class Weighted(Layer):
    """A layer with weights.

    Attributes:
        weights: a row per output channel.
        bias: float32 `(rows,)`; None if there is none, or `integer_bias` is used.
        integer_bias: int32 `(rows,)`, added to integer sums of products.
    """

    weights: Weights | None = None
    bias: Array | None = None
    integer_bias: Array | None = None

    @property
    def rows_of(self) -> Weights:
        """The weights, which only the base class may lack."""
        if self.weights is None:
            raise TypeError("a weighted layer without weights")
        return self.weights

    @property
    def sums_integers(self) -> bool:
        """Whether products are summed exactly, as integers."""
        addend = 0 if self.integer_bias is None else int(np.abs(self.integer_bias).max())
        return self.inputs[0].is_byte and self.rows_of.fits_integer_sums(addend)


@dataclass(frozen=True)
class Convolution(Weighted):
    """A two-dimensional convolution of `(channels, height, width)`."""

    geometry: Geometry = Geometry((1, 1), (1, 1), (0, 0), (1, 1), 1)


@dataclass(frozen=True)
class Dense(Weighted):
    """A matrix times a vector."""


@dataclass(frozen=True)
class DynamicDense(Weighted):
    """A dense layer whose float inputs are first quantized to 8 bits over their own range."""


@dataclass(frozen=True)
class Map(Layer):
    """An elementwise operation on two tensors, or a copy of one.

    Inputs have the output's shape; broadcast axes have strides of 0.
    """

    operator: Binary | None = None


@dataclass(frozen=True)
class Take(Layer):
    """Picks entries along the first axis."""

    indices: tuple[int, ...] = ()

    @property
    def takes_steps(self) -> bool:
        """False, since entries are only copied."""
        return False


@dataclass(frozen=True)
class Run:
    """Consecutive one-hot codes of one element, for values from `first` up."""

    element: int
    first: int
    count: int


@dataclass(frozen=True)
class OneHot(Layer):
    """One-hot codes of categories, as bytes."""

    runs: tuple[Run, ...] = ()

    @property
    def takes_steps(self) -> bool:
        """False, since codes are 0 or 1."""
        return False


@dataclass(frozen=True)
class Reduce(Layer):
    """A reduction of each row to a number, or, for softmax and norm, its normalization."""

    operator: Reduction = "sum"
    epsilon: float = 0.0

    @property
    def takes_steps(self) -> bool:
        """Whether values are written once; softmax and norm rewrite their rows."""
        return self.operator in ("sum", "mean")


def multiply_accumulates(layers: Sequence[Layer]) -> int:
    """Multiply-accumulates of weights with activations in one forward pass."""
    total = 0
    for layer in layers:
        if isinstance(layer, Convolution):
            weights = layer.rows_of
            total += layer.output.size * weights.columns
        elif isinstance(layer, Weighted):
            total += layer.rows_of.entries
    return total
