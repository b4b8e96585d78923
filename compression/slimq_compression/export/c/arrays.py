"""The constant arrays of a layer, and the expressions that read its weights."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from slimq_compression.export.c.snippets import code_reader
from slimq_compression.export.c.text import array, number
from slimq_compression.export.layers.kinds import Quantize, Weighted
from slimq_compression.export.layers.tensors import Array
from slimq_compression.export.layers.weights import Weights, pack


@dataclass
class Arrays:
    """Arrays and helper functions that a source needs.

    Attributes:
        definitions: text of the arrays.
        helpers: text of the helper functions, by name.
        bytes: size of the arrays in flash.
        mathematics: whether functions of <math.h> are called.
    """

    definitions: list[str] = field(default_factory=list)
    helpers: dict[str, str] = field(default_factory=dict)
    bytes: int = 0
    mathematics: bool = False

    def add(self, name: str, values: Array) -> str:
        """Adds an array; returns its name."""
        self.definitions.append(array(name, values))
        self.bytes += values.nbytes
        return name

    def numbers(self, name: str, values: Array, place: str = "o") -> str:
        """An expression for one number per output: an element, or a literal if all are equal."""
        flat = values.reshape(-1).astype(np.float32)
        if (flat == flat[0]).all():
            return number(flat[0])
        return f"{self.add(name, flat)}[{place}]"

    def packed(self, name: str, codes: Array, bits: int, *, signed: bool) -> str:
        """Adds packed codes; returns the format string of an expression that reads one."""
        reader, text = code_reader(bits, signed=signed)
        self.helpers[reader] = text
        stored = self.add(name, pack(codes, bits))
        return f"{reader}({stored}, (uint32_t)({{index}}))"


@dataclass(frozen=True)
class Reader:
    """C expressions that read the weights of a layer.

    Attributes:
        element: C type of a decoded value.
        direct: name of an array with a plain value for each weight; None if they are decoded.
        value: format string of an expression for a stored value, with `{index}`.
        gap: the same for the distance between stored values; None if there is none.
        mask: name of the bit mask of stored values; None if there is none.
    """

    element: str
    direct: str | None
    value: str
    gap: str | None = None
    mask: str | None = None


def weights_reader(arrays: Arrays, name: str, weights: Weights) -> Reader:
    """Writes the weights of a layer as arrays; returns the expressions that read them."""
    places = weights.places
    gap = mask = None
    if not weights.coded:
        stored = arrays.add(f"{name}_weights", weights.values.astype(np.float32))
        element, value = "float", f"{stored}[{{index}}]"
    elif weights.packed:
        value = arrays.packed(f"{name}_codes", weights.values, weights.bits, signed=weights.signed)
        element, stored = "int8_t", ""
    else:
        kind = f"{'int' if weights.signed else 'uint'}{weights.bits}"
        stored = arrays.add(f"{name}_codes", weights.values.astype(kind))
        element, value = f"{kind}_t", f"{stored}[{{index}}]"
    if weights.table is not None:
        table = arrays.add(f"{name}_table", weights.table)
        element, value, stored = "float", f"{table}[{value}]", ""
    if places is not None and places.kind == "mask":
        mask = arrays.add(f"{name}_mask", places.data.astype(np.uint8))
    elif places is not None and places.bits < 8:
        gap = arrays.packed(f"{name}_gaps", places.data, places.bits, signed=False)
    elif places is not None:
        gap = f"{arrays.add(f'{name}_gaps', places.data.astype(np.uint8))}[{{index}}]"
    direct = stored if stored and places is None else None
    return Reader(element, direct, value, gap, mask)


@dataclass(frozen=True)
class Ending:
    """The conversion of a sum of products to a value.

    Attributes:
        value: expression in `sum` and the output's index `o`.
        requantized: whether the value is already in units of the quantizer's scale.
    """

    value: str
    requantized: bool = False


def ending(arrays: Arrays, name: str, layer: Weighted, factor: str | None = None) -> Ending:
    """Writes the scales and biases of a layer.

    The sums of a quantized layer get an integer bias and one factor, input scale × weight scale /
    output scale, computed in float32 as in ONNX Runtime.

    Args:
        arrays: receives the arrays.
        name: the layer's name.
        layer: the layer.
        factor: expression that replaces the input's scale; None for the scale itself.
    """
    scale = np.float32(layer.inputs[0].scale) if factor is None else np.float32(1.0)
    weights = layer.rows_of
    scales = scale * (np.ones(1, np.float32) if weights.scale is None else weights.scale)
    step = layer.epilogue[0] if layer.epilogue else None
    if layer.sums_integers and layer.integer_bias is not None:
        bias = arrays.add(f"{name}_bias", layer.integer_bias.astype(np.int32))
        total = f"(float)(sum + {bias}[o])"
        requantized = isinstance(step, Quantize)
        if isinstance(step, Quantize):
            scales = scales / np.float32(step.scale)
        return Ending(f"{total} * {arrays.numbers(f'{name}_scale', scales)}", requantized)
    value = "(float)sum" if layer.sums_integers or factor else "sum"
    if factor:
        value = f"{value} * ({factor} * {arrays.numbers(f'{name}_scale', scales)})"
    elif (scales != 1.0).any():
        value = f"{value} * {arrays.numbers(f'{name}_scale', scales)}"
    if layer.bias is not None and layer.bias.any():
        value = f"{value} + {arrays.numbers(f'{name}_bias', layer.bias)}"
    return Ending(value)
