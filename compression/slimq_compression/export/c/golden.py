"""Golden vectors: recorded states with the Q-values that the generated C must return.

The file begins with seven little-endian uint32: `GOLDEN_MAGIC`, the numbers of frames, states,
frames per state, bytes per frame and actions, and whether exact Q-values follow. Then come the
frames; for each state the int32 indices of its frames, oldest first, -1 for padding; the float32
Q-values of ONNX Runtime; and those of the C itself as compiled on the exporting machine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from slimq.core.calibration import CalibrationSet
from slimq.core.qfunction import QValues

GOLDEN_MAGIC = 0x514D4C53
"""The letters `SLMQ`."""
DEFAULT_BYTES = 1_000_000
"""Approximate size of the file by default."""
MIN_VECTORS, MAX_DEFAULT = 8, 1_000


def default_count(states: CalibrationSet) -> int:
    """The number of vectors that fit the default size."""
    each = int(states.frames[0].nbytes) * int(states.indices.shape[1])
    return max(MIN_VECTORS, min(MAX_DEFAULT, DEFAULT_BYTES // each))


def places(states: int, count: int) -> npt.NDArray[np.int64]:
    """The indices of at most `count` evenly spaced states."""
    return np.unique(np.linspace(0, states - 1, min(count, states)).astype(np.int64))


def choose(states: CalibrationSet, chosen: npt.NDArray[np.int64]) -> CalibrationSet:
    """States by index, with the frames that they need."""
    indices = states.indices[chosen]
    used, new = np.unique(indices[indices >= 0], return_inverse=True)
    renumbered = np.full(indices.shape, -1, np.int32)
    renumbered[indices >= 0] = new
    return CalibrationSet(states.frames[used], renumbered, states.q_values[chosen])


def golden_bytes(states: CalibrationSet, reference: QValues, exact: QValues | None) -> bytes:
    """Encodes the golden vectors.

    Args:
        states: the chosen states.
        reference: ONNX Runtime's Q-values, `(states, actions)`.
        exact: those of the compiled C; None without a compiler.
    """
    count, actions = reference.shape
    sizes = (len(states.frames), count, states.indices.shape[1], states.frames[0].nbytes, actions)
    head = np.array([GOLDEN_MAGIC, *sizes, exact is not None], "<u4")
    frames = states.frames.astype(states.frames.dtype.newbyteorder("<"))
    parts = [head, frames, states.indices.astype("<i4"), reference.astype("<f4")]
    if exact is not None:
        parts.append(exact.astype("<f4"))
    return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
