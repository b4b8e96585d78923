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
DATATYPES_OF_OUTPUTS = {Q_VALUES: "FP32", ACTIONS: "INT64"}
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
    shapes: dict[str, tuple[int, ...]] = {Q_VALUES: (actions,), ACTIONS: ()}
    return tuple(Tensor(n, DATATYPES_OF_OUTPUTS[n], shape) for n, shape in shapes.items())
