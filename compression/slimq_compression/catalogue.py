"""Table of all passes.

Adding a technique takes one file under `passes/`, one row here and one line in docs/method.md. A
parametrized test checks the same invariants for every row: the input is not modified, equal seeds
give equal results, input and output keep their names, Q-values are finite, and errors name
parameters that are out of range. Network passes leave weights exactly on their grid (masks,
codebooks, levels, scales), so that graph passes can encode them without loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from slimq_compression.passes import (
    finetune,
    finetune_td,
    fold,
    low_rank,
    prune_channels,
    prune_weights,
    quantize_activations,
    quantize_dynamic,
    quantize_int4,
    quantize_int8,
    quantize_weights,
    store_weights,
    student,
)

Phase = Literal["network", "graph"]


@dataclass(frozen=True)
class Pass:
    """One technique.

    Attributes:
        phase: `network` passes transform a QNetwork, `graph` passes an ONNX model.
        params: its parameters, each with bounds and a description.
        apply: `apply(network_or_model, params, context)`; returns a new one.
    """

    phase: Phase
    params: type[BaseModel]
    apply: Callable[[Any, Any, Any], Any]


CATALOGUE: dict[str, Pass] = {
    "student": Pass("network", student.Params, student.apply),
    "prune_channels": Pass("network", prune_channels.Params, prune_channels.apply),
    "low_rank": Pass("network", low_rank.Params, low_rank.apply),
    "prune_weights": Pass("network", prune_weights.Params, prune_weights.apply),
    "quantize_weights": Pass("network", quantize_weights.Params, quantize_weights.apply),
    "finetune": Pass("network", finetune.Params, finetune.apply),
    "finetune_td": Pass("network", finetune_td.Params, finetune_td.apply),
    "fold": Pass("graph", fold.Params, fold.apply),
    "quantize_int8": Pass("graph", quantize_int8.Params, quantize_int8.apply),
    "quantize_dynamic": Pass("graph", quantize_dynamic.Params, quantize_dynamic.apply),
    "quantize_int4": Pass("graph", quantize_int4.Params, quantize_int4.apply),
    "quantize_activations": Pass("graph", quantize_activations.Params, quantize_activations.apply),
    "store_weights": Pass("graph", store_weights.Params, store_weights.apply),
}


def names(phase: Phase | None = None) -> list[str]:
    """Names of the passes of one phase, or of all, in table order."""
    return [name for name, row in CATALOGUE.items() if phase in (None, row.phase)]
