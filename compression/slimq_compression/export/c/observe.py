"""The C function that updates the observation: shifts the frame stack and crops to the window."""

from __future__ import annotations

import contextlib
import math

from slimq_compression.export.c.text import Code, index
from slimq_compression.export.layers.tensors import row_major
from slimq_compression.export.lowering.lower import Network


def frame_size(network: Network) -> int:
    """Number of elements that the caller passes at each step."""
    return network.spec.frame.size


def observe(code: Code, network: Network, prefix: str) -> None:
    """Writes the function that takes a frame, or an observation that is not stacked."""
    element = network.observation.element
    head = f"void {prefix}_observe({prefix}_state *state, const {element} *frame)"
    with code.function(head):
        if network.spec.stack is None or network.spec.stack.axis == 0:
            _push_first(code, network)
        else:
            _push_inner(code, network, network.spec.stack.axis)


def _push_first(code: Code, network: Network) -> None:
    """Shifts the kept frames by one and appends the window of the new frame."""
    window, spec = network.window, network.spec
    frames = spec.stack.count if spec.stack else 1
    whole = (spec.shape[0] // frames, *spec.shape[1:])
    kept = (window.shape[0] // window.frames, *window.shape[1:])
    starts = (0, *window.starts[1:]) if spec.stack else window.starts
    size = math.prod(kept)
    before, target = size * (window.frames - 1), "state->observation"
    code.line(f"{_type(network)} *newest = {target}{f' + {before}' if before else ''};")
    if before:
        code.line(f"memmove({target}, {target} + {size}, {before} * sizeof(*newest));")
    if kept == whole:
        code.line(f"memcpy(newest, frame, {size} * sizeof(*newest));")
        return
    strides = row_major(whole)
    offset = sum(start * stride for start, stride in zip(starts, strides, strict=True))
    _copy_lines(code, kept, strides, offset)


def _copy_lines(code: Code, kept: tuple[int, ...], strides: tuple[int, ...], offset: int) -> None:
    """Copies the last axis of a window, line by line.

    Args:
        code: receives the statements.
        kept: shape of the window.
        strides: the frame's strides, in elements.
        offset: offset of the window's first element in the frame, in elements.
    """
    used = [(f"i{axis}", axis) for axis, size in enumerate(kept[:-1]) if size > 1]
    own = row_major(kept)
    with contextlib.ExitStack() as loops:
        for name, axis in used:
            loops.enter_context(code.loop(name, kept[axis]))
        target = index([(name, own[axis]) for name, axis in used])
        source = index([(name, strides[axis]) for name, axis in used], offset)
        code.line(f"memcpy(newest + {target}, frame + {source}, {kept[-1]} * sizeof(*newest));")


def _push_inner(code: Code, network: Network, axis: int) -> None:
    """Shifts frames that are stacked along an inner axis, row by row."""
    shape = network.spec.shape
    count = network.spec.stack.count if network.spec.stack else 1
    rows, length = math.prod(shape[:axis]), math.prod(shape[axis:])
    each = length // count
    with code.loop("r", rows):
        code.line(f"{_type(network)} *line = state->observation + r * {length};")
        code.line(f"memmove(line, line + {each}, {length - each} * sizeof(*line));")
        target = f"line + {length - each}" if length > each else "line"
        code.line(f"memcpy({target}, frame + r * {each}, {each} * sizeof(*line));")


def _type(network: Network) -> str:
    return network.observation.element
