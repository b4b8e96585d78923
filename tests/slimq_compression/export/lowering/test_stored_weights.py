"""Weights stay in flash as the variant stores them, and are the ones that the graph computes."""

from __future__ import annotations

import numpy as np
import pytest

from c_exports import shipped_model
from slimq_compression.export.layers.weights import Weights
from slimq_compression.export.lowering.graph import Graph
from slimq_compression.export.lowering.lower import lower
from slimq_compression.export.lowering.stored_weights import find_weights
from slimq_compression.graph.weights import decoded_weights


def stored(policy: str, variant: str) -> list[Weights]:
    model, _, _ = shipped_model(policy, variant)
    graph, real = Graph(model), decoded_weights(model)
    found = []
    for node in graph.nodes:
        if node.operator in ("Conv", "Gemm"):
            weights = find_weights(graph, node.inputs[1])
            expected = real[node.inputs[1]].reshape(weights.rows, -1)
            np.testing.assert_array_equal(weights.decoded(), expected)
            found.append(weights)
    return found


@pytest.mark.parametrize(
    ("policy", "variant", "bits"),
    [
        ("pong", "tiny", [6, 6, 5, 8]),
        ("pong", "int4-activations", [8, 4, 4, 4, 4]),
        ("pong", "int2-kmeans", [8, 2, 2, 2, 4]),
        ("pong", "deep-compression", [4, 4, 4, 4, 4]),
        ("pong", "int8", [8, 8, 8, 8, 32]),
        ("cartpole", "fp32", [32, 32, 32]),
    ],
)
def test_codes_have_as_few_bits_as_hold_them(policy: str, variant: str, bits: list[int]) -> None:
    assert [weights.bits for weights in stored(policy, variant)] == bits


def test_codebooks_keep_their_tables() -> None:
    tables = [weights.table for weights in stored("pong", "int4-kmeans")]
    assert [None if table is None else len(table) for table in tables] == [None, 16, 16, 16, 16]


def test_zeros_are_not_stored() -> None:
    places = [weights.places for weights in stored("pong", "deep-compression")]
    assert {place.kind for place in places if place} == {"gaps"}
    assert all(places)
    masked = [weights for weights in stored("cartpole", "sparse-obd") if weights.places]
    assert [weights.entries for weights in masked] == [367, 6289]


def test_flash_is_no_more_than_the_file_before_compression() -> None:
    model, spec, actions = shipped_model("pong", "deep-compression")
    network = lower(model, spec, actions)
    total = sum(layer.weights.bytes for layer in network.layers)
    assert total < len(model.SerializeToString())
