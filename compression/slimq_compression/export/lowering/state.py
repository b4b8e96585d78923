"""The state of lowering: the layers so far, and the view of each tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from slimq.core.observation import ObservationSpec
from slimq_compression.export.layers.kinds import Layer, Map, Quantize, Step
from slimq_compression.export.layers.tensors import (
    Array,
    Buffer,
    Element,
    View,
    constant,
    whole,
)
from slimq_compression.export.lowering.graph import Graph, Node


class UnsupportedError(Exception):
    """An operator that cannot be lowered.

    Attributes:
        operator: its name, prefixed with its domain unless that is the default one.
        reason: what about it is unsupported; empty if the operator is unsupported altogether.
    """

    def __init__(self, operator: str, reason: str = "") -> None:
        self.operator, self.reason = operator, reason
        super().__init__(f"{operator} ({reason})" if reason else operator)


@dataclass(frozen=True)
class Picked:
    """Entries along the first axis that Equal will read in place."""

    source: View
    indices: tuple[int, ...]


@dataclass
class Lowering:
    """The state of lowering one graph.

    Attributes:
        spec: layout of the observation.
        layers: layers so far, in order of computation.
        views: views of the graph's tensors so far, by name.
        picked: gathered entries that were not copied, by tensor name.
    """

    graph: Graph
    spec: ObservationSpec
    layers: list[Layer] = field(default_factory=list)
    views: dict[str, View] = field(default_factory=dict)
    picked: dict[str, Picked] = field(default_factory=dict)
    _shared: set[Buffer] = field(default_factory=set)

    def bind(self, name: str, view: View) -> None:
        """Records the view of a tensor."""
        self.views[name] = view
        if self.graph.readers[name] > 1:
            self._shared.add(view.buffer)

    def view(self, node: Node, index: int = 0) -> View:
        """The view of a node's input; constants are put into flash.

        Raises:
            UnsupportedError: it has no elements that can be read.
        """
        name = node.inputs[index]
        if name in self.views:
            return self.views[name]
        values = self.graph.constant(name)
        if values is None:
            raise UnsupportedError(node.operator, f"its input {name!r} is not a plain tensor")
        if values.ndim and values.shape[0] == 1 and values.ndim > 1:
            values = values[0]  # the batch axis
        return constant(values)

    def values(self, node: Node, index: int) -> Array | None:
        """A constant input of a node; None if it is missing.

        Raises:
            UnsupportedError: it depends on the observation.
        """
        if index >= len(node.inputs) or not node.inputs[index]:
            return None
        found = self.graph.constant(node.inputs[index])
        if found is None:
            raise UnsupportedError(node.operator, f"input {index + 1} depends on the observation")
        return found

    def required(self, node: Node, index: int) -> Array:
        """A constant input of a node.

        Raises:
            UnsupportedError: it is missing or depends on the observation.
        """
        found = self.values(node, index)
        if found is None:
            raise UnsupportedError(node.operator, f"input {index + 1} is missing")
        return found

    def scratch(self, shape: Sequence[int], element: Element = "float") -> View:
        """A view of a new buffer for an intermediate result."""
        return whole(Buffer(element, math.prod(shape)), shape)

    def add(self, name: str, layer: Layer) -> None:
        """Adds a layer whose output is the tensor `name`."""
        self.layers.append(layer)
        self.bind(name, layer.output)

    def contiguous(self, view: View) -> View:
        """The same values in C order; copied only if they are not in C order already."""
        if view.is_contiguous:
            return view
        copied = self.scratch(view.shape, view.buffer.element)
        plain = replace(view, scale=1.0, zero=0)
        self.layers.append(Map((plain,), copied))
        return replace(copied, scale=view.scale, zero=view.zero)

    def apply(self, name: str, source: View, step: Step) -> None:
        """Applies a step to every value, in the layer that produces them if it has no other reader.

        Args:
            name: name of the resulting tensor.
            source: the values.
            step: the step to apply.
        """
        place = self._maker(source)
        element = step.element if isinstance(step, Quantize) else "float"
        if place is None:
            output = self.scratch(source.shape, element)
            self.add(name, Map((source,), output, (step,)))
            return
        before = self.layers[place]
        output = self.scratch(before.output.shape, element)
        self.layers[place] = replace(before, output=output, epilogue=(*before.epilogue, step))
        self.bind(name, output.reshaped(source.shape))

    def _maker(self, view: View) -> int | None:
        """Index of the layer that produces exactly these values, for one reader; None otherwise."""
        if not (view.is_plain and view.is_float and view.is_contiguous):
            return None
        if view.buffer in self._shared or view.size != view.buffer.size:
            return None
        for index, layer in enumerate(self.layers):
            if layer.output.buffer is view.buffer:
                makes_all = layer.output.size == view.size
                return index if makes_all and layer.takes_steps else None
        return None
