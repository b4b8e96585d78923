"""A recorded episode, which the page replays, with reference Q-values for the page's own.

The file is compressed with gzip. It has the new frame of each step, XORed with the one before,
since consecutive frames differ little; then the actions as uint16, the rewards and the Q-values as
float32, all little-endian. Without a frame stack, each observation is one frame.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slimq.core.calibration import CalibrationSet
from slimq.core.environment import EnvironmentSpec
from slimq.core.frames import newest
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.qfunction import QFunction, QValues
from slimq.environments.vector import VectorEnvironment

MAX_BYTES = 4_000_000
"""Maximum size of the file; a longer episode is cut off, which the page states."""
MAX_STEPS = 4_000
MAX_STATES = 500
"""Maximum number of recorded states, for a policy without an environment."""


@dataclass(frozen=True)
class Recording:
    """Greedy play of a variant.

    Attributes:
        seed: the episode's seed; None for recorded states, which are no episode.
        observations: `(steps, *shape)`.
        actions: `(steps,)`.
        rewards: `(steps,)`, float32.
        q_values: `(steps, actions)`, from ONNX Runtime in Python.
        terminated: whether the environment ended the episode; False if it was cut off.
        complete: whether it was played to its end.
    """

    seed: int | None
    observations: Observations
    actions: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float32]
    q_values: QValues
    terminated: bool
    complete: bool

    def __len__(self) -> int:
        return len(self.actions)

    def first(self, steps: int) -> Recording:
        """The first steps."""
        return Recording(
            self.seed,
            self.observations[:steps],
            self.actions[:steps],
            self.rewards[:steps],
            self.q_values[:steps],
            self.terminated and steps >= len(self),
            self.complete and steps >= len(self),
        )


@dataclass(frozen=True)
class EpisodeFile:
    """An encoded recording.

    Attributes:
        content: bytes of the file.
        recording: the recording in it.
        stacked: whether it has single frames, which the page stacks.
    """

    content: bytes
    recording: Recording
    stacked: bool


def record_episode(spec: EnvironmentSpec, policy: QFunction, seed: int) -> Recording:
    """Plays an episode greedily, for at most `MAX_STEPS` steps.

    Raises:
        EnvironmentFailure: the environment raises an exception.
        MissingExtraError: the environment's library is not installed.
        InvalidInputError: the environment is unknown.
    """
    observations: list[np.ndarray] = []
    actions: list[int] = []
    rewards: list[float] = []
    q_values: list[np.ndarray] = []
    terminated = ended = False
    environment = VectorEnvironment(spec, 1, 1)
    try:
        observation = environment.start([seed])
        while not ended and len(actions) < MAX_STEPS:
            found = policy(observation)
            action = found.argmax(axis=1).astype(np.int64)
            result = environment.step(action)
            observations.append(np.array(observation[0]))
            actions.append(int(action[0]))
            rewards.append(float(result.rewards[0]))
            q_values.append(found[0])
            observation = result.observations
            ended, terminated = bool(result.ended[0]), bool(result.terminated[0])
    finally:
        environment.close()
    return Recording(
        seed,
        _stack(observations),
        np.array(actions, np.int64),
        np.array(rewards, np.float32),
        np.stack(q_values).astype(np.float32),
        terminated,
        ended,
    )


def record_states(states: CalibrationSet, layout: ObservationSpec, policy: OnnxPolicy) -> Recording:
    """The recorded states of a policy without an environment, in order, with its Q-values."""
    observations: Any = states.observations(layout)[:MAX_STATES]
    q_values = np.concatenate([policy(one[np.newaxis]) for one in observations])
    actions = q_values.argmax(axis=1).astype(np.int64)
    rewards = np.zeros(len(actions), np.float32)
    return Recording(
        None, observations, actions, rewards, q_values, terminated=False, complete=True
    )


def episode_file(
    recording: Recording, layout: ObservationSpec, max_bytes: int = MAX_BYTES
) -> EpisodeFile:
    """Encodes a recording, cut off so that the file has at most `max_bytes`."""
    frames = newest_frames(recording.observations, layout)
    stacked = frames is not None and recording.seed is not None
    stored = frames if stacked and frames is not None else recording.observations
    steps = len(recording)
    content = _pack(recording, stored)
    while len(content) > max_bytes and steps > 1:
        steps = max(1, min(steps - 1, int(steps * max_bytes / len(content))))
        content = _pack(recording.first(steps), stored[:steps])
    return EpisodeFile(content, recording.first(steps), stacked)


def newest_frames(observations: Observations, layout: ObservationSpec) -> Observations | None:
    """The newest frame of each observation of an episode that begins with the first one.

    Returns:
        `(steps, *frame)`; None if stacking these after the padding does not give the observations.
    """
    if layout.stack is None:
        return observations
    frames = newest(observations, layout)
    before = layout.padding()
    for row, frame in enumerate(frames):
        before = layout.push(before, frame[np.newaxis])
        if not np.array_equal(before[0], observations[row]):
            return None
    return frames


def _stack(observations: list[npt.NDArray[Any]]) -> Observations:
    stacked: Any = np.stack(observations)
    return stacked  # type: ignore[no-any-return]


def _pack(recording: Recording, stored: npt.NDArray[Any]) -> bytes:
    little = np.ascontiguousarray(stored.astype(stored.dtype.newbyteorder("<")))
    rows = little.reshape(len(little), -1).view(np.uint8)
    changes = rows.copy()
    changes[1:] ^= rows[:-1]
    parts = (
        changes,
        recording.actions.astype("<u2"),
        recording.rewards.astype("<f4"),
        recording.q_values.astype("<f4"),
    )
    return gzip.compress(b"".join(part.tobytes() for part in parts), 9, mtime=0)
