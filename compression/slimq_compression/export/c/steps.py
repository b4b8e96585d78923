"""The epilogue of a layer: operations on each value before it is stored."""

from __future__ import annotations

import math

from slimq_compression.export.c.arrays import Arrays
from slimq_compression.export.c.snippets import QUANTIZED, ROUND, SIGMOID
from slimq_compression.export.c.text import Code, number
from slimq_compression.export.layers.kinds import Clip, Epilogue, Function, Quantize, Step
from slimq_compression.export.layers.tensors import View

MATHEMATICS = {
    "elu": "value = value > 0.0f ? value : {alpha} * expm1f(value);",
    "sigmoid": "value = sigmoid(value);",
    "tanh": "value = tanhf(value);",
    "gelu": "value = 0.5f * value * (1.0f + erff(value * 0.70710678f));",
    "exp": "value = expf(value);",
    "sqrt": "value = sqrtf(value);",
}
"""Functions that need <math.h>."""
ARITHMETIC = {
    "relu": "value = value > 0.0f ? value : 0.0f;",
    "leaky_relu": "value = value > 0.0f ? value : {alpha} * value;",
    "reciprocal": "value = 1.0f / value;",
    "negate": "value = -value;",
}


def store(
    code: Code,
    arrays: Arrays,
    value: str,
    target: str,
    epilogue: Epilogue,
    *,
    requantized: bool = False,
) -> None:
    """Writes the statements that apply an epilogue to a value and store the result.

    Args:
        code: receives the statements.
        arrays: receives the helper functions.
        value: expression for the value.
        target: expression for the element that stores it.
        epilogue: the steps.
        requantized: whether the value is already in units of the quantizer's scale.
    """
    if not epilogue:
        code.line(f"{target} = {value};")
        return
    last = epilogue[-1]
    steps = epilogue[:-1] if isinstance(last, Quantize) else epilogue
    if steps:
        code.line(f"float value = {value};")
        for step in steps:
            for text in statements(arrays, step):
                code.line(text)
        value = "value"
    if isinstance(last, Quantize):
        use_quantized(arrays)
        if not requantized:
            value = (
                f"({value}) / {number(last.scale)}"
                if not steps
                else (f"value / {number(last.scale)}")
            )
        limits = f"{last.zero}, {last.low}, {last.high}"
        code.line(f"{target} = ({last.element})quantized({value}, {limits});")
    else:
        code.line(f"{target} = value;")


def use_quantized(arrays: Arrays) -> None:
    """Adds the helper functions that round to codes."""
    arrays.helpers["rounded"] = ROUND
    arrays.helpers["quantized"] = QUANTIZED


def statements(arrays: Arrays, step: Step) -> list[str]:
    """The statements that apply a step to `value`."""
    if isinstance(step, Clip):
        bounds = ((">", step.low), ("<", step.high))
        return [
            f"value = value {sign} {number(bound)} ? value : {number(bound)};"
            for sign, bound in bounds
            if math.isfinite(bound)
        ]
    if not isinstance(step, Function):
        raise TypeError("a quantizer is the last step")
    if step.kind in ARITHMETIC:
        return [ARITHMETIC[step.kind].format(alpha=number(step.alpha))]
    arrays.mathematics = True
    if step.kind == "sigmoid":
        arrays.helpers["sigmoid"] = SIGMOID
    return [MATHEMATICS[step.kind].format(alpha=number(step.alpha))]


def real(view: View, place: str) -> str:
    """The expression for an element's real value.

    Args:
        view: the tensor.
        place: expression for the stored element.
    """
    if view.is_float:
        return place if view.is_plain else f"{place} * {number(view.scale)}"
    if view.zero:
        place = f"((int32_t){place} - {view.zero})"
    return f"(float){place}" if view.scale == 1.0 else f"(float){place} * {number(view.scale)}"
