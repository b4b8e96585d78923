"""What a policy's tensors are called in the protocol, and of what type and shape they are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from slimq.core.observation import ObservationSpec

INPUT = "observations"
Q_VALUES = "q_values"
ACTIONS = "actions"
OUTPUTS = (Q_VALUES, ACTIONS)
PLATFORM = "onnx_onnxv1"
DATATYPES = {"uint8": "UINT8", "float32": "FP32"}


@dataclass(frozen=True)
class Tensor:
    """One input or output; `shape` is that of one observation, without the batch."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def input_tensor(spec: ObservationSpec) -> Tensor:
    """The one input of a policy."""
    return Tensor(INPUT, DATATYPES[spec.dtype], spec.shape)


@cache
def output_tensors(actions: int) -> tuple[Tensor, ...]:
    """The outputs of a policy with this many actions."""
    return Tensor(Q_VALUES, "FP32", (actions,)), Tensor(ACTIONS, "INT64", ())
