"""Architectures of students, chosen for a policy's observations and a number of parameters.

In a network for frames, the first dense layer has most of the weights, and the first convolution
takes most of the time. Fitted students therefore reduce an image to at most 7 rows with wide
strides, the first with a kernel of at most 8, before one dense layer three times as wide as the
convolutions; for other observations they have one hidden layer. Narrowed students have the given
network's layers with fewer units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError

from slimq.core.errors import InvalidInputError
from slimq.core.observation import Observations
from slimq.networks.layers import ConvLayer, DenseLayer, Hidden, Window, dense_layers
from slimq.networks.qnetwork import QNetwork, count_parameters
from slimq.networks.specification import (
    Body,
    ConvSpec,
    HeadSpec,
    MLPSpec,
    MultiInputSpec,
    QNetworkSpec,
    channel_axis,
    seen_shape,
)

SMALL_IMAGE, LARGE_IMAGE = 12, 40
"""Sides that choose the first convolution: kernel 3 with stride 2 up to the smaller one, 8 with
stride 6 above the larger one, 4 with stride 3 between."""
DENSE_SIDE = 7
"""Largest side of an image that goes to the dense layer."""
DENSE_FACTOR = 3
"""Neurons of the dense layer per channel."""
MAX_UNITS = 4_096
MIN_SIDE = 3
"""Smallest side of an image that is worth a convolution."""


class Shape(StrEnum):
    """Architecture of a student of a given size."""

    FITTED = "fitted"
    NARROWED = "narrowed"


def shape_student(given: QNetworkSpec, shape: Shape, parameters: int, place: str) -> QNetworkSpec:
    """The widest student of at most `parameters` weights and biases, with a linear head.

    Args:
        given: specification of the network that it replaces.
        shape: the kind of architecture.
        parameters: maximum weights and biases.
        place: the parameter that sets them, for errors.

    Raises:
        InvalidInputError: not even one unit per layer fits, or `narrowed` is asked for a network
            with groups, shuffles or residual blocks.
    """
    if shape is Shape.FITTED and not isinstance(given.body, MultiInputSpec):
        make, highest = _fitted(given), MAX_UNITS
    else:
        if not (widths := _widths(given.body)):
            expected = f"{Shape.FITTED} for a policy whose layers are unknown"
            raise InvalidInputError(_sibling(place), expected, str(Shape.NARROWED))
        make, highest = _narrowed(given, place), max(widths)
    low, high = 1, highest
    smallest = count_of(_with(given, make(1)))
    if smallest > parameters:
        expected = f"at least {smallest:,} parameters, one unit per layer"
        raise InvalidInputError(place, expected, f"{parameters:,}")
    while low < high:
        middle = (low + high + 1) // 2
        fits = count_of(_with(given, make(middle))) <= parameters
        low, high = (middle, high) if fits else (low, middle - 1)
    return _with(given, make(low))


def count_of(spec: QNetworkSpec) -> int:
    """Number of weights and biases of a network of this specification."""
    with torch.device("meta"):
        return count_parameters(QNetwork(spec))


def _with(given: QNetworkSpec, body: Body) -> QNetworkSpec:
    try:
        return QNetworkSpec.model_validate({**dict(given), "body": body, "head": HeadSpec()})
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        expected = f"layers that fit observations of {given.observation_shape}"
        raise InvalidInputError("student.shape", expected, problem) from error


def _fitted(given: QNetworkSpec) -> Callable[[int], Body]:
    """A function that makes a fitted body with a number of units."""
    image = image_body(given)
    if image is None:
        return lambda units: MLPSpec(hidden=(units,))

    def make(units: int) -> Body:
        side = min(seen_shape(image, given.observation_shape)[1:])
        convolutions: list[ConvLayer] = []
        while side >= MIN_SIDE and (not convolutions or side > DENSE_SIDE):
            kernel, stride = 3, 2
            if not convolutions and side > SMALL_IMAGE:
                kernel, stride = (8, 6) if side > LARGE_IMAGE else (4, 3)
            convolutions.append(ConvLayer(channels=units, kernel=kernel, stride=stride))
            side = (side - kernel) // stride + 1
        hidden = (DENSE_FACTOR * units,)
        values = dict(image) | {"convolutions": convolutions, "hidden": hidden}
        return ConvSpec.model_validate(values | {"activation": "relu"})

    return make


def image_body(given: QNetworkSpec) -> ConvSpec | None:
    """A convolutional body for these observations, without its layers; None if not for images.

    A network without hidden layers stands for a policy whose network is unknown.
    """
    body, shape = given.body, given.observation_shape
    if isinstance(body, ConvSpec):
        return body
    axis = channel_axis(shape)
    if body.hidden or axis is None or sorted(shape)[1] < MIN_SIDE:
        return None
    placeholder = ConvLayer(channels=1, kernel=1)
    return ConvSpec(channels=axis, convolutions=(placeholder,), hidden=())


@dataclass(frozen=True)
class View:
    """The informative part of images.

    Attributes:
        window: rows and columns outside which no pixel varies; None for all of the image.
        background: the most frequent value.
    """

    window: Window | None
    background: int


def measure_view(states: Observations, body: ConvSpec) -> View:
    """Measures images `(states, *shape)` as a body sees them."""
    images = np.moveaxis(states, -1, 1) if body.channels == "last" else states
    varies = (images != images[:1]).any(axis=(0, 1))
    spans = [_span(varies.any(axis=axis)) for axis in (1, 0)]
    window = None
    if any(span != (0, size) for span, size in zip(spans, varies.shape, strict=True)):
        window = Window(rows=spans[0], columns=spans[1])
    counted = images.astype(np.uint8) if images.dtype == np.uint8 else np.zeros(1, np.uint8)
    return View(window, int(np.bincount(counted.reshape(-1), minlength=256).argmax()))


def _span(varies: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """The shortest span with every place that varies and at least `MIN_SIDE` places."""
    found = np.flatnonzero(varies)
    if not len(found):
        return 0, len(varies)
    start, stop = int(found[0]), int(found[-1]) + 1
    missing = max(0, min(MIN_SIDE, len(varies)) - (stop - start))
    start = max(0, min(start, len(varies) - (stop - start) - missing))
    return start, stop if not missing else start + min(MIN_SIDE, len(varies))


def _narrowed(given: QNetworkSpec, place: str) -> Callable[[int], Body]:
    """A function that makes a body from the units of its widest layer; proportions are kept."""
    widest = max(_widths(given.body), default=1)

    def narrow(body: Any, share: float) -> Any:
        update: dict[str, object] = {"hidden": _scaled(body.hidden, share)}
        if isinstance(body, ConvSpec):
            for layer in body.convolutions:
                if not isinstance(layer, ConvLayer) or layer.groups > 1:
                    expected = f"{Shape.FITTED} for a network with groups, shuffles or residuals"
                    raise InvalidInputError(_sibling(place), expected, str(Shape.NARROWED))
            update["convolutions"] = tuple(
                layer.model_copy(update={"channels": _width(layer.channels, share)})
                for layer in body.convolutions
                if isinstance(layer, ConvLayer)
            )
        if isinstance(body, MultiInputSpec):
            update["encoders"] = {
                name: narrow(encoder, share) for name, encoder in body.encoders.items()
            }
        return body.model_copy(update=update)

    return lambda units: narrow(given.body, units / widest)


def _sibling(place: str) -> str:
    return f"{place.rpartition('.')[0]}.shape"


def _widths(body: Body) -> list[int]:
    widths = [layer.width for layer in dense_layers(body.hidden)]
    if isinstance(body, ConvSpec):
        widths += [layer.channels for layer in body.convolutions if isinstance(layer, ConvLayer)]
    if isinstance(body, MultiInputSpec):
        widths += [width for encoder in body.encoders.values() for width in _widths(encoder)]
    return widths


def _scaled(hidden: Hidden, share: float) -> Hidden:
    return tuple(
        layer.model_copy(update={"width": _width(layer.width, share)})
        if isinstance(layer, DenseLayer)
        else _width(layer, share)
        for layer in hidden
    )


def _width(width: int, share: float) -> int:
    return max(1, round(width * share))
