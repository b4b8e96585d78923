"""Names, datatypes and shapes of a policy's tensors in the protocol."""

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
DATATYPES = {"uint8": "UINT8", "int32": "INT32", "float32": "FP32"}


@dataclass(frozen=True)
class Tensor:
    """An input or output; `shape` is without the batch dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def input_tensor(spec: ObservationSpec) -> Tensor:
    """The input of a policy."""
    return Tensor(INPUT, DATATYPES[spec.dtype], spec.shape)


@cache
def output_tensors(actions: int) -> tuple[Tensor, ...]:
    """The outputs of a policy with this number of actions."""
    shapes: dict[str, tuple[int, ...]] = {Q_VALUES: (actions,), ACTIONS: ()}
    return tuple(Tensor(n, DATATYPES_OF_OUTPUTS[n], shape) for n, shape in shapes.items())
