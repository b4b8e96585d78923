"""Runs the compiled C on this machine."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from slimq.core.calibration import CalibrationSet
from slimq.core.observation import Observations
from slimq.core.qfunction import QValues


class Exported(Protocol):
    """A running export, which takes one frame after another."""

    def reset(self) -> None:
        """Begins an episode."""
        ...

    def observe(self, frame: Observations) -> None:
        """Takes the newest frame or observation, without a batch axis."""
        ...

    def q_values(self) -> QValues:
        """The Q-values of the current observation, `(actions,)`."""
        ...


class HostPolicy:
    """Calls the functions of a compiled export."""

    def __init__(self, library: Path, prefix: str, state_bytes: int, actions: int) -> None:
        loaded = ctypes.CDLL(str(library))
        self._reset = getattr(loaded, f"{prefix}_reset")
        self._observe = getattr(loaded, f"{prefix}_observe")
        self._q_values = getattr(loaded, f"{prefix}_q_values")
        self._act = getattr(loaded, f"{prefix}_act")
        self._act.restype = ctypes.c_int32
        words = -(-state_bytes // 8)
        self._state = (ctypes.c_uint64 * words)()
        self._values = (ctypes.c_float * actions)()

    def reset(self) -> None:
        """Begins an episode."""
        self._reset(self._state)

    def observe(self, frame: Observations) -> None:
        """Takes the newest frame or observation, without a batch axis."""
        self._observe(self._state, _pointer(frame))

    def act(self, frame: Observations) -> int:
        """Takes the newest frame and returns the greedy action."""
        return int(self._act(self._state, _pointer(frame)))

    def q_values(self) -> QValues:
        """The Q-values of the current observation, `(actions,)`."""
        self._q_values(self._state, self._values)
        return np.array(self._values, np.float32)

    def on_states(self, states: CalibrationSet) -> QValues:
        """The Q-values of recorded states, `(states, actions)`."""
        return q_values_on(self, states)


def q_values_on(policy: Exported, states: CalibrationSet) -> QValues:
    """The Q-values of recorded states, `(states, actions)`, each shown frame by frame."""
    rows = []
    for row in states.indices:
        policy.reset()
        for frame in frames_of(row):
            policy.observe(states.frames[frame])
        rows.append(policy.q_values())
    return np.stack(rows)


def frames_of(row: npt.NDArray[np.int32]) -> list[int]:
    """The frames that make up a state, oldest first, without the padding before them."""
    return [int(frame) for frame in row if frame >= 0]


def _pointer(frame: Observations) -> ctypes.c_void_p:
    return np.ascontiguousarray(frame).ctypes.data_as(ctypes.c_void_p)
