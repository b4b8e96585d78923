"""Every pass, in one literal table.

Adding a technique is one file under `passes/`, one row here and one line of docs/method.md. A
parametrised test holds every row to the same laws: the input is not changed, the same seed gives
the same result, input and output keep their names, Q-values are finite, and parameters out of
range are refused by name. Hand-over: a network pass leaves weights exactly on their grid (masks,
codebooks, levels, scales), so that a graph pass only encodes them, without loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from slimq_compression.passes import finetune, prune_channels, quantize_int8

Phase = Literal["network", "graph"]


@dataclass(frozen=True)
class Pass:
    """One technique.

    Attributes:
        phase: `network` passes map a QNetwork to another, `graph` passes an ONNX model.
        params: its parameters, each with a bound and a description.
        apply: `apply(network_or_model, params, context)`; returns a new one.
        summary: one line for tables and help.
    """

    phase: Phase
    params: type[BaseModel]
    apply: Callable[[Any, Any, Any], Any]
    summary: str


CATALOGUE: dict[str, Pass] = {
    "prune_channels": Pass(
        "network",
        prune_channels.Params,
        prune_channels.apply,
        "removes whole channels and neurons of small weight norm; kept weights are the parent's",
    ),
    "finetune": Pass(
        "network",
        finetune.Params,
        finetune.apply,
        "distils the full policy into the network on states that the network itself visits",
    ),
    "quantize_int8": Pass(
        "graph",
        quantize_int8.Params,
        quantize_int8.apply,
        "static 8-bit weights and activations (QDQ), calibrated on real play, bias-corrected",
    ),
}


def names(phase: Phase | None = None) -> list[str]:
    """The passes of a phase, or all, in the order of the table."""
    return [name for name, row in CATALOGUE.items() if phase in (None, row.phase)]
