"""Applies a condition between an environment and a policy, episode by episode."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slimq.core.conditions.catalogue import Condition, MakeChannel, kind_of, measuring
from slimq.core.conditions.disturbances import ActionChannel, Channel, Sensor
from slimq.core.environment import EnvironmentSpec
from slimq.core.observation import INTEGER_RANGES, Observations, ObservationSpec, slices_of

SPREAD = (1.0, 99.0)
"""Percentiles of an element in the calibration states whose distance is its spread."""
FLOAT_RANGE = float(np.finfo(np.float32).min), float(np.finfo(np.float32).max)


def measure_spread(observations: Observations, observation: ObservationSpec) -> list[float] | None:
    """The spread of each element of a frame or vector, in C order; None for images.

    Args:
        observations: `(states, *shape)`, from the full policy's play.
        observation: their layout.
    """
    if kind_of(observation) == "frames":
        return None
    newest: npt.NDArray[Any] = observations
    if (stack := observation.stack) is not None:
        newest = np.split(observations, stack.count, stack.axis + 1)[-1]
    flat = newest.reshape(len(newest), -1).astype(np.float64)
    low, high = np.percentile(flat, SPREAD, axis=0)
    return [float(value) for value in high - low]


def sensor_of(observation: ObservationSpec, spread: Sequence[float] | None) -> Sensor:
    """The sensor from which observations come.

    Args:
        observation: layout of the observations.
        spread: spread of each element, from `measure_spread`.
    """
    frame = observation.frame
    shape = frame.shape
    low = np.full(shape, -np.inf if frame.low is None else frame.low)
    high = np.full(shape, np.inf if frame.high is None else frame.high)
    integers = np.full(shape, frame.dtype != "float32")
    for part, place in zip(frame.parts or (), slices_of(frame.parts or ()), strict=True):
        if part.categories is not None:
            low[place] = part.first
            high[place] = np.asarray(part.first) + np.asarray(part.categories) - 1
        else:
            low[place] = -np.inf if part.low is None else part.low
            high[place] = np.inf if part.high is None else part.high
        integers[place] |= part.integer or part.categories is not None
    least, most = INTEGER_RANGES.get(frame.dtype, FLOAT_RANGE)
    low, high = np.maximum(low, least), np.minimum(high, most)
    unit = np.ones(shape) if spread is None else np.asarray(spread, np.float64).reshape(shape)
    unit = np.where(measuring(frame), unit, 0.0)
    return Sensor(shape, frame.numpy_dtype, unit, low, high, integers)


class Passage:
    """The link between an environment and a policy during one episode."""

    def __init__(
        self,
        observation: ObservationSpec,
        observe: Channel | None,
        act: ActionChannel | None,
    ) -> None:
        self._observation, self._observe, self._act = observation, observe, act
        self._latest: npt.NDArray[Any] = observation.padding()[0]

    def observe(self, observation: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The observation that arrives for the environment's next one, both of `shape`."""
        if self._observe is None:
            return observation
        stack, spec = self._observation.stack, self._observation
        frame = observation
        if stack is not None:
            frame = np.split(observation, stack.count, stack.axis)[-1].reshape(spec.frame.shape)
        # A channel may keep the frame, and an environment may reuse its memory.
        arrived = self._observe(frame.copy())
        if arrived is not None:
            self._latest = spec.push(self._latest[np.newaxis], arrived[np.newaxis])[0]
        return self._latest

    def act(self, action: int) -> int:
        """The action that the environment takes when the policy chooses `action`."""
        return action if self._act is None else self._act(action)


@dataclass(frozen=True)
class Situation:
    """A condition for the episodes of one policy.

    Attributes:
        condition: the disturbance and its strength.
        environment: the environment of undisturbed play.
        observation: layout of its observations.
        actions: number of its actions.
        spread: spread of each element, from `measure_spread`.
        channel: makes the channel of a custom condition; None for built-in ones.
    """

    condition: Condition
    environment: EnvironmentSpec
    observation: ObservationSpec
    actions: int
    spread: tuple[float, ...] | None = None
    channel: MakeChannel | None = None

    @property
    def played(self) -> EnvironmentSpec:
        """The environment to play in; Atari games apply sticky actions themselves, per frame."""
        atari, changes = self.environment.preprocessing, self.condition.strength > 0
        if atari is None or self.condition.name != "sticky" or not changes:
            return self.environment
        followed = (1 - atari.sticky_actions) * (1 - self.condition.strength)
        sticky = atari.model_copy(update={"sticky_actions": 1 - followed})
        return self.environment.model_copy(update={"preprocessing": sticky})

    def begin(self, seed: int) -> Passage:
        """Makes the passage of an episode; equal seeds give equal passages."""
        strength, observe, act = self.condition.strength, self.channel, None
        if strength == 0:
            return Passage(self.observation, None, None)
        if observe is None:
            row = self.condition.row
            observe = row.observation
            act = row.action if self.environment == self.played else None
        name = int.from_bytes(hashlib.sha256(self.condition.name.encode()).digest()[:8])
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([name, seed])))
        return Passage(
            self.observation,
            observe and observe(sensor_of(self.observation, self.spread), strength, generator),
            act and act(self.actions, strength, generator),
        )
