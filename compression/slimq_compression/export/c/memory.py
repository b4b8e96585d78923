"""Assigns memory to intermediate results, reused greedily as their lifetimes allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from slimq_compression.export.layers.kinds import DynamicDense, Layer
from slimq_compression.export.layers.tensors import BYTES, Buffer, Element

MEMBERS: dict[Element, str] = {
    "float": "floats",
    "uint8_t": "bytes",
    "int8_t": "signed_bytes",
    "int32_t": "words",
}
"""Names of a slot's union members, by element type."""


@dataclass
class Slot:
    """Memory that holds one buffer after another.

    Attributes:
        sizes: largest number of elements of each type.
        free_after: index of the last layer that needs its content.
    """

    name: str
    sizes: dict[Element, int] = field(default_factory=dict)
    free_after: int = -1

    @property
    def bytes(self) -> int:
        """Its size: that of its largest member, rounded up to the widest alignment."""
        size = max(BYTES[element] * count for element, count in self.sizes.items())
        align = max(BYTES[element] for element in self.sizes)
        return -(-size // align) * align


@dataclass(frozen=True)
class Memory:
    """The slots, and the assignment of buffers to them."""

    slots: Sequence[Slot]
    slot_of: dict[Buffer, Slot]

    def expression(self, buffer: Buffer) -> str:
        """The C expression for the address of a buffer's first element."""
        slot = self.slot_of[buffer]
        member = f".{MEMBERS[buffer.element]}" if len(slot.sizes) > 1 else ""
        return f"state->{slot.name}{member}"


def plan_memory(layers: Sequence[Layer]) -> Memory:
    """Assigns each buffer the free slot that has to grow least; layers never write in place."""
    lives = lifetimes(layers)
    slots: list[Slot] = []
    slot_of: dict[Buffer, Slot] = {}
    for buffer, (first, last) in lives.items():
        free = [slot for slot in slots if slot.free_after < first]
        slot = min(free, key=lambda one: _growth(one, buffer), default=None)
        if slot is None:
            slot = Slot(f"results_{len(slots) + 1}")
            slots.append(slot)
        slot.sizes[buffer.element] = max(slot.sizes.get(buffer.element, 0), buffer.size)
        slot.free_after = last
        slot_of[buffer] = slot
    return Memory(slots, slot_of)


def _growth(slot: Slot, buffer: Buffer) -> tuple[int, int]:
    """Bytes by which a slot would have to grow, and its difference in size from the buffer."""
    return max(0, buffer.bytes - slot.bytes), abs(slot.bytes - buffer.bytes)


def lifetimes(layers: Sequence[Layer]) -> dict[Buffer, tuple[int, int]]:
    """The first and last layer that touches each intermediate result, in order of the first."""
    lives: dict[Buffer, tuple[int, int]] = {}
    for position, layer in enumerate(layers):
        touched = [layer.output, *layer.inputs]
        if isinstance(layer, DynamicDense):
            touched = [*layer.inputs, layer.output]
        for view in touched:
            if view.buffer.place == "scratch":
                first, _ = lives.get(view.buffer, (position, position))
                lives[view.buffer] = (first, position)
    return dict(sorted(lives.items(), key=lambda entry: entry[1][0]))
