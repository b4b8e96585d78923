"""Assembles the C header and source of a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slimq_compression.export.c import plain, weighted
from slimq_compression.export.c.arrays import Arrays
from slimq_compression.export.c.memory import MEMBERS, Memory, Slot, plan_memory
from slimq_compression.export.c.notes import describe_layer
from slimq_compression.export.c.observe import frame_size, observe
from slimq_compression.export.c.text import Code, comment
from slimq_compression.export.layers.kinds import (
    Convolution,
    Dense,
    DynamicDense,
    Layer,
    Map,
    OneHot,
    Reduce,
    Take,
    Weighted,
)
from slimq_compression.export.layers.tensors import BYTES, Buffer
from slimq_compression.export.lowering.lower import Network

KINDS: dict[type[Layer], str] = {
    Convolution: "convolution",
    Dense: "dense",
    DynamicDense: "dense",
    Map: "map",
    Take: "take",
    OneHot: "one_hot",
    Reduce: "reduce",
}
"""Names of the layers' functions, to which a number is appended."""


@dataclass(frozen=True)
class Sources:
    """The generated files and their sizes.

    Attributes:
        header: text of the header.
        source: text of the source.
        constant_bytes: size of the arrays in flash.
        state_bytes: size of the state struct, with frames and all intermediate results.
    """

    header: str
    source: str
    constant_bytes: int
    state_bytes: int

    def write(self, folder: Path, prefix: str) -> None:
        """Writes both files, `PREFIX.h` and `PREFIX.c`."""
        (folder / f"{prefix}.h").write_text(self.header, encoding="utf-8")
        (folder / f"{prefix}.c").write_text(self.source, encoding="utf-8")


def write_sources(network: Network, prefix: str, notes: str) -> Sources:
    """Writes a network as C.

    Args:
        network: the lowered variant.
        prefix: prefix of files and identifiers.
        notes: paragraphs for the comment at the head of both files.
    """
    memory = plan_memory(network.layers)
    rows = _row_buffers(network)
    arrays, functions = Arrays(), Code()
    names = layer_names(network)
    for name, layer in zip(names, network.layers, strict=True):
        functions.line(comment(describe_layer(name, layer)))
        _function(functions, arrays, name, layer)
        functions.line("")
    interface = _interface(network, prefix, names, memory)
    includes = [f'#include "{prefix}.h"', "", "#include <string.h>"]
    if arrays.mathematics:
        includes.insert(2, "#include <math.h>")
    parts = [
        comment(notes) + "\n",
        "\n".join(includes) + "\n",
        *arrays.helpers.values(),
        *arrays.definitions,
        functions.text().rstrip("\n") + "\n",
        interface,
    ]
    header = _header(network, prefix, notes, memory, rows)
    return Sources(header, "\n".join(parts), arrays.bytes, state_bytes(network, memory))


def layer_names(network: Network) -> list[str]:
    """Names of the layers' functions: the kind and a number."""
    counts: dict[str, int] = {}
    names = []
    for layer in network.layers:
        kind = KINDS[type(layer)]
        counts[kind] = counts.get(kind, 0) + 1
        names.append(f"{kind}_{counts[kind]}")
    return names


def _function(code: Code, arrays: Arrays, name: str, layer: Layer) -> None:
    match layer:
        case Convolution():
            weighted.convolution(code, arrays, name, layer)
        case Dense() | DynamicDense():
            weighted.dense(code, arrays, name, layer)
        case Map():
            plain.map_(code, arrays, name, layer)
        case Take():
            plain.take(code, arrays, name, layer)
        case OneHot():
            plain.one_hot(code, name, layer)
        case Reduce():
            plain.reduce(code, arrays, name, layer)


def _row_buffers(network: Network) -> dict[str, int]:
    """Number of elements of the buffers for one row of decoded weights, by C type."""
    rows: dict[str, int] = {}
    for layer in network.layers:
        kind = weighted.row_type(layer) if isinstance(layer, Convolution) else None
        if kind and isinstance(layer, Weighted):
            rows[kind] = max(rows.get(kind, 0), layer.rows_of.columns)
    return rows


def _row_member(kind: str) -> str:
    return "row_codes" if kind == "int8_t" else "row_weights"


def _interface(network: Network, prefix: str, names: list[str], memory: Memory) -> str:
    """The functions that callers use."""
    code = Code()
    with code.function(f"void {prefix}_reset({prefix}_state *state)"):
        code.line("memset(state->observation, 0, sizeof(state->observation));")
    code.line("")
    observe(code, network, prefix)
    code.line("")
    head = f"void {prefix}_q_values({prefix}_state *state, float *q_values)"
    with code.function(head):
        for name, layer in zip(names, network.layers, strict=True):
            code.line(f"{name}({', '.join(_arguments(layer, memory))});")
    code.line("")
    frame = f"const {network.observation.element} *frame"
    with code.function(f"int32_t {prefix}_act({prefix}_state *state, {frame})"):
        code.line(f"float q_values[{network.actions}];")
        code.line("int32_t best = 0;")
        code.line(f"{prefix}_observe(state, frame);")
        code.line(f"{prefix}_q_values(state, q_values);")
        with code.block(f"for (int32_t a = 1; a < {network.actions}; a++)"):
            code.line("best = q_values[a] > q_values[best] ? a : best;")
        code.line("return best;")
    return code.text()


def _arguments(layer: Layer, memory: Memory) -> list[str]:
    """The arguments of a layer's function: its inputs, its output, and the row buffer if needed."""
    inputs = [view.buffer for view in layer.inputs if view.buffer.place != "constant"]
    found = [_address(buffer, memory) for buffer in (*inputs, layer.output.buffer)]
    kind = weighted.row_type(layer) if isinstance(layer, Convolution) else None
    return [*found, f"state->{_row_member(kind)}"] if kind else found


def _address(buffer: Buffer, memory: Memory) -> str:
    if buffer.place == "observation":
        return "state->observation"
    return "q_values" if buffer.place == "q_values" else memory.expression(buffer)


def _header(network: Network, prefix: str, notes: str, memory: Memory, rows: dict[str, int]) -> str:
    guard = f"{prefix.upper()}_H"
    element, state = network.observation.element, f"{prefix}_state"
    code = Code()
    code.line(comment(notes))
    code.line(f"#ifndef {guard}\n#define {guard}\n\n#include <stdint.h>\n")
    code.line('#ifdef __cplusplus\nextern "C" {\n#endif\n')
    code.line(f"#define {prefix.upper()}_ACTIONS {network.actions}")
    code.line(f"#define {prefix.upper()}_FRAME_SIZE {frame_size(network)}\n")
    code.line(comment("All memory that the policy needs, except for the stack."))
    with code.block("typedef struct"):
        code.line(f"{element} observation[{network.observation.size}];")
        for slot in memory.slots:
            _member(code, slot)
        for kind, count in rows.items():
            code.line(f"{kind} {_row_member(kind)}[{count}];")
    code.lines[-1] = f"}} {state};\n"
    for note, declaration in _declarations(network, prefix, state):
        code.line(f"{comment(note)}\n{declaration}\n")
    code.line("#ifdef __cplusplus\n}\n#endif\n\n#endif")
    return code.text()


def _declarations(network: Network, prefix: str, state: str) -> list[tuple[str, str]]:
    frame = f"const {network.observation.element} *frame"
    stacked = network.spec.stack is not None
    name = "frame" if stacked else "observation"
    shape = " x ".join(map(str, network.spec.frame.shape))
    before = "; the frames before the first one are zero" if stacked else ""
    return [
        (f"Begins an episode{before}.", f"void {prefix}_reset({state} *state);"),
        (
            f"Takes the newest {name}, {shape} elements in C order.",
            f"void {prefix}_observe({state} *state, {frame});",
        ),
        (
            "Computes the Q-values of the current observation, one for each action.",
            f"void {prefix}_q_values({state} *state, float *q_values);",
        ),
        (
            f"Takes the newest {name} and returns the action with the largest Q-value, the first "
            "of equal ones.",
            f"int32_t {prefix}_act({state} *state, {frame});",
        ),
    ]


def _member(code: Code, slot: Slot) -> None:
    """Declares a slot: an array, or a union if it holds several types."""
    if len(slot.sizes) == 1:
        ((element, count),) = slot.sizes.items()
        code.line(f"{element} {slot.name}[{count}];")
        return
    with code.block("union"):
        for element, count in slot.sizes.items():
            code.line(f"{element} {MEMBERS[element]}[{count}];")
    code.lines[-1] = f"{code.lines[-1]} {slot.name};"


def state_bytes(network: Network, memory: Memory) -> int:
    """Size of the state struct, including the padding that compilers add for alignment."""
    rows = _row_buffers(network)
    size, widest = network.observation.bytes, BYTES[network.observation.element]
    for slot in memory.slots:
        align = max(BYTES[element] for element in slot.sizes)
        widest = max(widest, align)
        size = -(-size // align) * align + slot.bytes
    for kind, count in rows.items():
        each = 1 if kind == "int8_t" else 4
        widest = max(widest, each)
        size = -(-size // each) * each + each * count
    return -(-size // widest) * widest
