"""The calibration set: observations from real play with their Q-values, stored as single frames.

Consecutive observations of a frame stack share all but one frame, so each frame is stored once and
an observation is a row of frame indices; -1 marks the zero padding at the start of an episode.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slimq.core.errors import ObservationError, RepositoryError, first_line
from slimq.core.manifest import PolicyManifest
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.qfunction import QValues


@dataclass(frozen=True)
class CalibrationSet:
    """States visited by the full policy, with its Q-values.

    Attributes:
        frames: `(frames, *frame)`, each frame once; whole observations if frames are not stacked.
        indices: `(states, count)`, the frames that make up each state, oldest first; -1 is padding.
        q_values: `(states, actions)`, computed by the full policy.
    """

    frames: Observations
    indices: npt.NDArray[np.int32]
    q_values: QValues

    def __len__(self) -> int:
        return len(self.indices)

    def observations(self, spec: ObservationSpec) -> Observations:
        """The states as a batch `(states, *shape)`."""
        frames = self.frames[np.maximum(self.indices, 0)]
        frames[self.indices < 0] = 0
        if spec.stack is not None:
            frames = np.moveaxis(frames, 1, spec.stack.axis + 1)
        return spec.check(frames.reshape(len(self), *spec.shape), "calibration")

    def to_bytes(self) -> bytes:
        """Serializes the three arrays as a compressed npz."""
        stream = io.BytesIO()
        np.savez_compressed(
            stream, frames=self.frames, indices=self.indices, q_values=self.q_values
        )
        return stream.getvalue()

    @staticmethod
    def from_bytes(content: bytes) -> CalibrationSet:
        """Reads the output of `to_bytes`."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return CalibrationSet(arrays["frames"], arrays["indices"], arrays["q_values"])


def parse_calibration(content: bytes, manifest: PolicyManifest, place: str) -> CalibrationSet:
    """Parses a policy's calibration set from its stored bytes.

    Raises:
        RepositoryError: the bytes are not a calibration set, or its states or Q-values do not fit
            the policy.
    """
    try:
        calibration = CalibrationSet.from_bytes(content)
        states = calibration.observations(manifest.observation)
    except ObservationError as error:
        raise RepositoryError(place, str(error)) from error
    except Exception as error:  # damaged archives, headers and indices raise anything
        problem = f"is not a calibration set: {first_line(error)}"
        raise RepositoryError(place, problem) from error
    expected, found = (len(states), len(manifest.actions)), calibration.q_values.shape
    if found != expected:
        raise RepositoryError(place, f"q_values: expected shape {expected}, found {found}")
    return calibration
