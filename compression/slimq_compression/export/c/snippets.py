"""Helper functions of the generated source; only those that a network needs are written."""

from __future__ import annotations

ROUND = """\
/* The nearest integer, ties to even, for |value| < 2^22: adding 1.5 * 2^23 leaves no bits for a
 * fraction. Not with -ffast-math, which may leave out both operations. */
static float rounded(float value)
{
    const float shifted = value + 12582912.0f;
    return shifted - 12582912.0f;
}
"""
QUANTIZED = """\
/* The code of a value in units of the scale: rounded, moved by zero and limited. */
static int32_t quantized(float value, int32_t zero, int32_t low, int32_t high)
{
    const float least = (float)(low - zero);
    const float most = (float)(high - zero);
    value = value > least ? value : least;
    value = value < most ? value : most;
    return (int32_t)rounded(value) + zero;
}
"""
SIGMOID = """\
static float sigmoid(float value)
{
    return 1.0f / (1.0f + expf(-value));
}
"""


def code_reader(bits: int, *, signed: bool) -> tuple[str, str]:
    """The name and the text of a function that reads packed codes."""
    name = f"{'signed' if signed else 'unsigned'}_code_{bits}"
    mask, sign = 2**bits - 1, 2 ** (bits - 1)
    kind = "int32_t" if signed else "uint32_t"
    result = f"(int32_t)((word & {mask}u) ^ {sign}u) - {sign}" if signed else f"word & {mask}u"
    if 8 % bits == 0:
        each, shift = 8 // bits, {1: 3, 2: 2, 4: 1}[bits]
        word = f"packed[index >> {shift}] >> ((index & {each - 1}u) * {bits}u)"
        body = f"    const uint32_t word = (uint32_t){word};\n"
    else:
        body = (
            f"    const uint32_t bit = index * {bits}u;\n"
            "    const uint32_t pair = packed[bit >> 3] | (uint32_t)packed[(bit >> 3) + 1u] << 8;\n"
            "    const uint32_t word = pair >> (bit & 7u);\n"
        )
    kind_of = "signed" if signed else "unsigned"
    return name, (
        f"/* The {kind_of} {bits}-bit code at an index; the first is in the lowest bits. */\n"
        f"static {kind} {name}(const uint8_t *packed, uint32_t index)\n{{\n"
        f"{body}    return {result};\n}}\n"
    )
