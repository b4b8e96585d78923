"""Intermediate results share memory only when their lifetimes do not overlap."""

from __future__ import annotations

import itertools

import pytest

from c_exports import shipped_model
from slimq_compression.export.c.memory import lifetimes, plan_memory
from slimq_compression.export.lowering.lower import lower


@pytest.mark.parametrize(
    ("policy", "variant"),
    [
        ("pong", "mobilenet-undisturbed"),
        ("pong", "shufflenet-undisturbed"),
        ("cartpole", "int8-dynamic"),
    ],
)
def test_no_result_is_overwritten_while_it_is_needed(policy: str, variant: str) -> None:
    layers = lower(*shipped_model(policy, variant)).layers
    memory, lives = plan_memory(layers), lifetimes(layers)
    for (one, first), (other, second) in itertools.combinations(lives.items(), 2):
        if memory.slot_of[one] is memory.slot_of[other]:
            assert first[1] < second[0] or second[1] < first[0]


def test_two_results_in_turn_take_two_slots() -> None:
    layers = lower(*shipped_model("pong", "tiny")).layers
    memory = plan_memory(layers)
    assert [slot.bytes for slot in memory.slots] == [8320, 1536]
