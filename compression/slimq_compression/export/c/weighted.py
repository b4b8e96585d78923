"""C functions of convolutions and dense layers."""

from __future__ import annotations

from slimq_compression.export.c.arrays import Arrays, Reader, ending, weights_reader
from slimq_compression.export.c.steps import store, use_quantized
from slimq_compression.export.c.text import Code, index
from slimq_compression.export.layers.kinds import Convolution, Dense, DynamicDense, Weighted
from slimq_compression.export.layers.weights import Weights

DYNAMIC_RANGE = """\
/* Quantizes inputs to 8 bits over their own range, zero included; returns the scale. */
static float quantize_range(const float *input, int32_t count, uint8_t *codes, int32_t *zero)
{
    float low = 0.0f;
    float high = 0.0f;
    for (int32_t i = 0; i < count; i++) {
        low = input[i] < low ? input[i] : low;
        high = input[i] > high ? input[i] : high;
    }
    const float scale = high > low ? (high - low) / 255.0f : 1.0f;
    *zero = quantized(-low / scale, 0, 0, 255);
    for (int32_t i = 0; i < count; i++) {
        codes[i] = (uint8_t)quantized(input[i] / scale, *zero, 0, 255);
    }
    return scale;
}
"""


def row_type(layer: Convolution) -> str | None:
    """C type of the buffer for one row of decoded weights; None if they are read in place."""
    weights = layer.rows_of
    if not weights.packed and weights.table is None and weights.places is None:
        return None
    return "int8_t" if weights.coded and weights.table is None else "float"


def convolution(code: Code, arrays: Arrays, name: str, layer: Convolution) -> None:
    """Writes a convolution, output by output."""
    source, output, weights = layer.inputs[0], layer.output, layer.rows_of
    reader = weights_reader(arrays, name, weights)
    finish = ending(arrays, name, layer)
    row = row_type(layer)
    geometry = layer.geometry
    channels = source.shape[0] // geometry.groups
    window = geometry.kernel[0] * geometry.kernel[1]
    parameters = f"const {source.buffer.element} *input, {output.buffer.element} *output"
    if row:
        parameters += f", {row} *row"
    with code.function(f"static void {name}({parameters})"):
        _start_cursor(code, reader)
        with code.loop("o", weights.rows):
            if row:
                _decode_row(code, reader, weights)
            else:
                code.line(f"const {reader.element} *row = {reader.direct} + o * {weights.columns};")
            if geometry.groups > 1:
                each = weights.rows // geometry.groups
                group = "o" if each == 1 else f"(o / {each})"
                code.line(f"const int32_t first = {index([(group, channels)])};")
            with code.loop("y", output.shape[1]), code.loop("x", output.shape[2]):
                code.line(f"{'int32_t' if layer.sums_integers else 'float'} sum = 0;")
                with code.loop("c", channels):
                    _window(code, layer, window)
                place = index(
                    [("o", output.strides[0]), ("y", output.strides[1]), ("x", output.strides[2])],
                    output.offset,
                )
                store(
                    code, arrays, finish.value, f"output[{place}]", layer.epilogue,
                    requantized=finish.requantized,
                )  # fmt: skip


def _window(code: Code, layer: Convolution, window: int) -> None:
    """Writes the sum over the kernel's rows and columns, with zero padding."""
    source, geometry = layer.inputs[0], layer.geometry
    channel = "(first + c)" if geometry.groups > 1 else "c"
    with code.loop("i", geometry.kernel[0]):
        _position(code, layer, 0, "y", "i", "vertical")
        place = index(
            [(channel, source.strides[0]), ("vertical", source.strides[1])], source.offset
        )
        weights = index([("c", window), ("i", geometry.kernel[1])])
        code.line(f"const {source.buffer.element} *line = input + {place};")
        code.line(f"const {weight_type(layer)} *weights = row + {weights};")
        if not _may_be_outside(layer, 1):
            start = index([("x", geometry.strides[1] * source.strides[2])])
            code.line(f"line += {start};")
        with code.loop("j", geometry.kernel[1]):
            if _may_be_outside(layer, 1):
                _position(code, layer, 1, "x", "j", "column")
                place = index([("column", source.strides[2])])
            else:
                place = index([("j", geometry.dilations[1] * source.strides[2])])
            code.line(f"sum += {_product(layer, 'weights[j]', f'line[{place}]')};")


def weight_type(layer: Convolution) -> str:
    """C type of the elements of a row of weights."""
    weights = layer.rows_of
    return row_type(layer) or (f"int{weights.bits}_t" if weights.coded else "float")


def _may_be_outside(layer: Convolution, axis: int) -> bool:
    """Whether a kernel reaches beyond the input."""
    geometry, size = layer.geometry, layer.inputs[0].shape[axis + 1]
    last = (layer.output.shape[axis + 1] - 1) * geometry.strides[axis] - geometry.pads[axis]
    return (
        geometry.pads[axis] > 0
        or last + ((geometry.kernel[axis] - 1) * geometry.dilations[axis]) >= size
    )


def _position(code: Code, layer: Convolution, axis: int, outer: str, inner: str, name: str) -> None:
    """Writes the input's index along an axis; positions outside of the input are skipped."""
    geometry, size = layer.geometry, layer.inputs[0].shape[axis + 1]
    stride, pad, dilation = geometry.strides[axis], geometry.pads[axis], geometry.dilations[axis]
    terms = index([(outer, stride), (inner, dilation)])
    code.line(f"const int32_t {name} = {terms}{f' - {pad}' if pad else ''};")
    if _may_be_outside(layer, axis):
        below = f"{name} < 0 || " if pad else ""
        with code.block(f"if ({below}{name} >= {size})"):
            code.line("continue;")


def _product(layer: Weighted, weight: str, value: str) -> str:
    """The expression for a weight times an input, in integers if sums are exact."""
    source = layer.inputs[0]
    if source.is_float:
        kind = layer.rows_of
        is_float = not kind.coded or kind.table is not None
        return f"{weight} * {value}" if is_float else f"(float){weight} * {value}"
    moved = f"((int32_t){value} - {source.zero})" if source.zero else value
    return f"{weight} * {moved}" if layer.sums_integers else f"(float){weight} * (float){moved}"


def _start_cursor(code: Code, reader: Reader) -> None:
    """Declares the position among the stored weights, which are in row-major order."""
    if reader.gap or reader.mask:
        code.line("int32_t entry = 0;")
    if reader.gap:
        code.line(f"int32_t place = (int32_t){reader.gap.format(index='entry')};")


def _decode_row(code: Code, reader: Reader, weights: Weights) -> None:
    """Fills the row buffer with the weights of output `o`."""
    columns = weights.columns
    kind = "(int8_t)" if reader.element == "int8_t" else ""
    if reader.gap:
        with code.loop("j", columns):
            code.line("row[j] = 0;")
        with code.block(f"while (entry < {weights.entries} && place < (o + 1) * {columns})"):
            value = reader.value.format(index="entry")
            code.line(f"row[place - o * {columns}] = {kind}{value};")
            _advance(code, reader, weights)
        return
    with code.loop("j", columns):
        if reader.mask:
            present = _present(reader.mask, f"o * {columns} + j")
            value = reader.value.format(index="entry++")
            code.line(f"row[j] = ({present}) ? {kind}{value} : 0;")
        else:
            value = reader.value.format(index=f"o * {columns} + j")
            code.line(f"row[j] = {kind}{value};")


def _advance(code: Code, reader: Reader, weights: Weights) -> None:
    """Writes the step to the next stored weight."""
    code.line("entry++;")
    with code.block(f"if (entry < {weights.entries})"):
        code.line(f"place += (int32_t){(reader.gap or '').format(index='entry')};")


def _present(mask: str, place: str) -> str:
    """The expression for whether the weight at a position is stored."""
    return f"{mask}[({place}) >> 3] >> (7 - (({place}) & 7)) & 1"


def dense(code: Code, arrays: Arrays, name: str, layer: Dense | DynamicDense) -> None:
    """Writes a dense layer, output by output; each weight is decoded where it is used."""
    source, output, weights = layer.inputs[0], layer.output, layer.rows_of
    reader = weights_reader(arrays, name, weights)
    dynamic = isinstance(layer, DynamicDense)
    finish = ending(arrays, name, layer, "scale" if dynamic else None)
    parameters = f"const {source.buffer.element} *input, {output.buffer.element} *output"
    if dynamic:
        use_quantized(arrays)
        arrays.helpers["quantize_range"] = DYNAMIC_RANGE
        parameters = f"const float *input, uint8_t *codes, {output.buffer.element} *output"
    with code.function(f"static void {name}({parameters})"):
        if dynamic:
            code.line("int32_t zero;")
            code.line(
                f"const float scale = quantize_range(input, {weights.columns}, codes, &zero);"
            )
        _start_cursor(code, reader)
        with code.loop("o", weights.rows):
            exact = dynamic or layer.sums_integers
            code.line(f"{'int32_t' if exact else 'float'} sum = 0;")
            _row_sum(code, reader, layer)
            place = index([("o", 1)], output.offset)
            store(
                code, arrays, finish.value, f"output[{place}]", layer.epilogue,
                requantized=finish.requantized,
            )  # fmt: skip


def _row_sum(code: Code, reader: Reader, layer: Dense | DynamicDense) -> None:
    """Writes the sum of products of one output."""
    weights, offset = layer.rows_of, layer.inputs[0].offset
    columns = weights.columns

    def term(weight: str, place: str) -> str:
        if isinstance(layer, DynamicDense):
            return f"{weight} * ((int32_t)codes[{place}] - zero)"
        return _product(layer, weight, f"input[{index([(place, 1)], offset)}]")

    stored = reader.value.format(index="entry")
    if reader.gap:
        with code.block(f"while (entry < {weights.entries} && place < (o + 1) * {columns})"):
            code.line(f"sum += {term(stored, f'place - o * {columns}')};")
            _advance(code, reader, weights)
    elif reader.mask:
        _masked_sum(code, reader.mask, columns, f"sum += {term(stored, 'i')};")
    else:
        with code.loop("i", columns):
            value = reader.value.format(index=f"o * {columns} + i")
            code.line(f"sum += {term(value, 'i')};")


def _masked_sum(code: Code, mask: str, columns: int, statement: str) -> None:
    """Writes a sum over the stored weights of a row; skips bytes of the mask that are zero."""
    if columns % 8:
        with code.loop("i", columns), code.block(f"if ({_present(mask, f'o * {columns} + i')})"):
            code.line(statement)
            code.line("entry++;")
        return
    with code.loop("b", columns // 8):
        code.line(f"uint32_t bits = {mask}[{index([('o', columns // 8), ('b', 1)])}];")
        with (
            code.block("for (int32_t i = b * 8; bits != 0; i++, bits = (bits << 1) & 255u)"),
            code.block("if (bits & 128u)"),
        ):
            code.line(statement)
            code.line("entry++;")
