"""C functions of layers without weights."""

from __future__ import annotations

import contextlib

import numpy as np

from slimq_compression.export.c.arrays import Arrays
from slimq_compression.export.c.steps import real, store
from slimq_compression.export.c.text import Code, index, number
from slimq_compression.export.layers.kinds import Map, OneHot, Reduce, Take
from slimq_compression.export.layers.tensors import View

SIGNS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}


def map_(code: Code, arrays: Arrays, name: str, layer: Map) -> None:
    """Writes an elementwise operation on one or two tensors."""
    output = layer.output
    flat = all(view.is_contiguous or view.size == 1 for view in (*layer.inputs, output))
    axes = (
        [("i", output.size)]
        if flat
        else [(f"i{axis}", size) for axis, size in enumerate(output.shape)]
    )
    names = [place for place, _ in axes]
    with (
        code.function(f"static void {name}({parameters_of(layer)})"),
        contextlib.ExitStack() as open_,
    ):
        for place, count in axes:
            open_.enter_context(code.loop(place, count))
        values = []
        for number_of, view in enumerate(layer.inputs, start=1):
            terms = [*zip(names, (1,) if flat else view.strides, strict=True)]
            values.append(_operand(arrays, name, number_of, view, terms))
        sign = SIGNS[layer.operator] if layer.operator else ""
        value = f" {sign} ".join(
            # Codes that are only copied are not dequantized.
            text if _moves_codes(layer) else real(view, text)
            for view, text in zip(layer.inputs, values, strict=True)
        )
        target = index([*zip(names, (1,) if flat else output.strides, strict=True)], output.offset)
        store(code, arrays, value, f"output[{target}]", layer.epilogue)


def _moves_codes(layer: Map) -> bool:
    """Whether integers are copied to integers of the same type."""
    first, element = layer.inputs[0], layer.output.buffer.element
    copies = layer.operator is None and not layer.epilogue
    return copies and not first.is_float and first.buffer.element == element


def _operand(
    arrays: Arrays, name: str, number_of: int, view: View, terms: list[tuple[str, int]]
) -> str:
    """The expression for an operand's element; a literal for a constant of equal elements."""
    values, place = view.buffer.values, index(terms, view.offset)
    if values is None:
        return f"input_{number_of}[{place}]"
    if (values == values[0]).all():
        return number(values[0])
    return f"{arrays.add(f'{name}_operand_{number_of}', values)}[{place}]"


def parameters_of(layer: Map) -> str:
    """The parameters of the C function: the non-constant operands and the output."""
    inputs = [
        f"const {view.buffer.element} *input_{position + 1}"
        for position, view in enumerate(layer.inputs)
        if view.buffer.values is None
    ]
    return ", ".join([*inputs, f"{layer.output.buffer.element} *output"])


def take(code: Code, arrays: Arrays, name: str, layer: Take) -> None:
    """Writes a function that copies selected entries."""
    source, output = layer.inputs[0], layer.output
    each = source.size // source.shape[0]
    kind = np.uint8 if source.shape[0] <= 256 else np.uint16
    order = arrays.add(f"{name}_order", np.array(layer.indices, kind))
    element = source.buffer.element
    with (
        code.function(f"static void {name}(const {element} *input, {element} *output)"),
        code.loop("o", len(layer.indices)),
        code.loop("i", each),
    ):
        place = index([(f"{order}[o]", each), ("i", 1)], source.offset)
        code.line(f"output[{index([('o', each), ('i', 1)], output.offset)}] = input[{place}];")


def one_hot(code: Code, name: str, layer: OneHot) -> None:
    """Writes a function that one-hot encodes categories."""
    source = layer.inputs[0]
    with code.function(
        f"static void {name}(const {source.buffer.element} *input, uint8_t *output)"
    ):
        start = 0
        for run in layer.runs:
            with code.loop("k", run.count):
                code_value = index([("k", 1)], run.first)
                wanted = f"(float)({code_value})" if source.is_float else code_value
                element = f"input[{source.offset + run.element}]"
                code.line(f"output[{index([('k', 1)], start)}] = {element} == {wanted};")
            start += run.count


def reduce(code: Code, arrays: Arrays, name: str, layer: Reduce) -> None:
    """Writes a function that reduces or normalizes each row."""
    source, output = layer.inputs[0], layer.output
    rows, columns = source.shape
    element = real(source, f"input[{index([('r', columns), ('i', 1)], source.offset)}]")
    first = real(source, f"input[{index([('r', columns)], source.offset)}]")
    target = f"output[{index([('r', columns), ('i', 1)], output.offset)}]"
    parameters = f"const {source.buffer.element} *input, float *output"
    arrays.mathematics |= layer.operator in ("softmax", "norm")
    with (
        code.function(f"static void {name}({parameters})"),
        code.loop("r", rows),
    ):
        if layer.operator == "softmax":
            _softmax(code, columns, first, element, target)
        elif layer.operator == "norm":
            _norm(code, columns, element, target, layer.epsilon)
        else:
            _total(code, columns, "sum", element)
            mean = f"sum / {number(columns)}" if layer.operator == "mean" else "sum"
            store(code, arrays, mean, f"output[{index([('r', 1)], output.offset)}]", layer.epilogue)


def _total(code: Code, columns: int, name: str, term: str) -> None:
    code.line(f"float {name} = 0.0f;")
    with code.loop("i", columns):
        code.line(f"{name} += {term};")


def _softmax(code: Code, columns: int, first: str, element: str, target: str) -> None:
    code.line(f"float most = {first};")
    with code.loop("i", columns):
        code.line(f"most = {element} > most ? {element} : most;")
    code.line("float sum = 0.0f;")
    with code.loop("i", columns):
        code.line(f"{target} = expf({element} - most);")
        code.line(f"sum += {target};")
    with code.loop("i", columns):
        code.line(f"{target} /= sum;")


def _norm(code: Code, columns: int, element: str, target: str, epsilon: float) -> None:
    _total(code, columns, "sum", element)
    code.line(f"const float mean = sum / {number(columns)};")
    _total(code, columns, "squares", f"({element} - mean) * ({element} - mean)")
    spread = f"sqrtf(squares / {number(columns)} + {number(epsilon)})"
    code.line(f"const float deviation = {spread};")
    with code.loop("i", columns):
        code.line(f"{target} = ({element} - mean) / deviation;")
