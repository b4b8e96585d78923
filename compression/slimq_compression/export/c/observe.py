"""C functions that keep the observation: the frame stack, its padding at reset, the window."""

from __future__ import annotations

import math

from slimq_compression.export.c.text import Code, index
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
    """Moves the kept frames up by one and copies the window of the new one behind them."""
    window, spec = network.window, network.spec
    each = window.shape[0] // window.frames
    kept = (each, *window.shape[1:])
    size = math.prod(kept)
    target = "state->observation"
    before = size * (window.frames - 1)
    code.line(f"{_type(network)} *newest = {target}{f' + {before}' if before else ''};")
    if window.frames > 1:
        count = size * (window.frames - 1)
        code.line(f"memmove({target}, {target} + {size}, {count} * sizeof(*newest));")
    whole = (spec.shape[0] // (spec.stack.count if spec.stack else 1), *spec.shape[1:])
    starts = (0, *window.starts[1:]) if spec.stack else window.starts
    if kept == whole:
        code.line(f"memcpy(newest, frame, {size} * sizeof(*newest));")
        return
    axes = [f"i{axis}" for axis in range(len(kept) - 1)]
    strides = [math.prod(whole[axis + 1 :]) for axis in range(len(whole))]
    own = [math.prod(kept[axis + 1 :]) for axis in range(len(kept))]
    offset = sum(start * stride for start, stride in zip(starts, strides, strict=True))
    _copy_lines(code, kept, axes, own, strides, offset)


def _copy_lines(
    code: Code,
    kept: tuple[int, ...],
    axes: list[str],
    own: list[int],
    strides: list[int],
    offset: int,
) -> None:
    """Copies the last axis of a window, line by line."""
    used = [axis for axis, size in enumerate(kept[:-1]) if size > 1]
    blocks = [code.loop(axes[axis], kept[axis]) for axis in used]
    for block in blocks:
        block.__enter__()
    target = index([(axes[axis], own[axis]) for axis in used])
    source = index([(axes[axis], strides[axis]) for axis in used], offset)
    code.line(f"memcpy(newest + {target}, frame + {source}, {kept[-1]} * sizeof(*newest));")
    for block in reversed(blocks):
        block.__exit__(None, None, None)


def _push_inner(code: Code, network: Network, axis: int) -> None:
    """Moves frames that are stacked along an inner axis, row by row."""
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
