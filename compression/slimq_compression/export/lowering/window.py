"""The part of an observation that a network sees, which is all that a device must keep."""

from __future__ import annotations

import math
from dataclasses import dataclass

from slimq.core.observation import ObservationSpec
from slimq.networks.export import INPUT
from slimq_compression.export.layers.tensors import View
from slimq_compression.export.lowering.graph import Graph, Node


@dataclass(frozen=True)
class Window:
    """Ranges of a stacked or single observation.

    Attributes:
        shape: shape of the kept part.
        starts: first kept index along each axis of the whole observation.
        frames: number of newest frames that are kept; 1 if frames are not stacked.
        tensor: the tensor that holds what the network sees; None if it sees everything kept.
        used: entries along the first axis that the network sees, from the oldest kept one on.
    """

    shape: tuple[int, ...]
    starts: tuple[int, ...]
    frames: int
    tensor: str | None = None
    used: int = 0

    def seen(self, kept: View) -> View:
        """The part of the kept observation that the network sees."""
        return kept.sliced(0, 0, self.used)


def find_window(graph: Graph, spec: ObservationSpec) -> Window:
    """Finds the crop with which a network begins; the whole observation if it splits a frame."""
    stack = spec.stack
    frames = 1 if stack is None else stack.count
    everything = Window(spec.shape, (0,) * len(spec.shape), frames)
    if graph.readers[INPUT] != 1:
        return everything
    node = next(node for node in graph.nodes if INPUT in node.inputs)
    if node.operator != "Slice" or (stack is not None and stack.axis != 0):
        return everything
    spans = _spans(graph, node, spec.shape)
    if spans is None:
        return everything
    each = spec.shape[0] // frames if stack is not None else spec.shape[0]
    first, last = spans[0]
    if stack is not None:
        if first % each:
            return everything
        kept = spec.shape[0] - first
        frames = kept // each
    else:
        kept = last - first
    shape = (kept, *(stop - start for start, stop in spans[1:]))
    starts = (first, *(start for start, _ in spans[1:]))
    return Window(shape, starts, frames, node.output, last - first)


def _spans(graph: Graph, node: Node, shape: tuple[int, ...]) -> list[tuple[int, int]] | None:
    """The range that a Slice takes of every axis after the batch; None if a step is not 1."""
    values = [graph.constant(name) for name in node.inputs[1:]]
    if any(value is None for value in values) or len(values) < 3:
        return None
    starts, stops, axes, *steps = ([int(v) for v in value] for value in values if value is not None)
    if any(step != 1 for given in steps for step in given) or 0 in axes:
        return None
    spans = [(0, size) for size in shape]
    for start, stop, axis in zip(starts, stops, axes, strict=True):
        place = axis % (len(shape) + 1) - 1
        first, last, _ = slice(start, stop).indices(shape[place])
        spans[place] = (first, last)
    return spans if math.prod(last - first for first, last in spans) > 0 else None
