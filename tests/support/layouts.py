"""Layouts of observations of every kind, with an episode of observations for each."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimq.core.conditions.passage import measure_spread
from slimq.core.observation import FrameStack, ObservationPart, ObservationSpec

STEPS = 12
Array = npt.NDArray[Any]

LAYOUTS: dict[str, ObservationSpec] = {
    "frames stacked first": ObservationSpec(
        dtype="uint8", shape=(4, 12, 10), low=0, high=255, stack=FrameStack(axis=0, count=4)
    ),
    "frames stacked last": ObservationSpec(
        dtype="uint8", shape=(12, 10, 4), low=0, high=255, stack=FrameStack(axis=2, count=4)
    ),
    "color frames stacked last": ObservationSpec(
        dtype="uint8", shape=(12, 10, 6), low=0, high=255, stack=FrameStack(axis=2, count=2)
    ),
    "frames": ObservationSpec(dtype="uint8", shape=(12, 10, 3), low=0, high=255),
    "frames without bounds": ObservationSpec(dtype="uint8", shape=(5, 9)),
    "one pixel": ObservationSpec(dtype="uint8", shape=(1, 1), low=0, high=255),
    "bytes": ObservationSpec(dtype="uint8", shape=(16,), low=0, high=255),
    "bounded vector": ObservationSpec(dtype="float32", shape=(5,), low=-1, high=1),
    "unbounded vector": ObservationSpec(dtype="float32", shape=(5,)),
    "stacked vectors": ObservationSpec(
        dtype="float32", shape=(3, 5), stack=FrameStack(axis=0, count=3)
    ),
    "vectors joined in a stack": ObservationSpec(
        dtype="float32", shape=(15,), stack=FrameStack(axis=0, count=3)
    ),
    "float image": ObservationSpec(dtype="float32", shape=(6, 7, 2), low=0, high=1),
    "flags": ObservationSpec(dtype="uint8", shape=(10, 10, 4), low=0, high=1),
    "one-hot": ObservationSpec(
        dtype="int32",
        shape=(1,),
        parts=(ObservationPart(name="observation", shape=(), categories=(16,)),),
    ),
    "integers": ObservationSpec(
        dtype="int32",
        shape=(3,),
        parts=(ObservationPart(name="counts", shape=(3,), integer=True, low=-9, high=99),),
    ),
    "parts": ObservationSpec(
        dtype="float32",
        shape=(11,),
        parts=(
            ObservationPart(name="position", shape=(2,), categories=(4, 300), start=(-1, 5)),
            ObservationPart(name="pressed", shape=(2,), integer=True, low=0, high=1),
            ObservationPart(name="image", shape=(2, 2), integer=True, low=0, high=255),
            ObservationPart(name="speed", shape=(2,)),
            ObservationPart(name="angle", shape=(1,), low=-3, high=3),
        ),
    ),
    "bytes in parts": ObservationSpec(
        dtype="uint8",
        shape=(6,),
        parts=(
            ObservationPart(name="pressed", shape=(2,), integer=True, low=0, high=1),
            ObservationPart(name="level", shape=(4,), integer=True, low=10, high=250),
        ),
    ),
}


def frames_of(spec: ObservationSpec, seed: int = 0, steps: int = STEPS) -> list[Array]:
    """One frame or vector for each step, valid in this layout."""
    generator = np.random.default_rng(seed)
    frame = spec.frame
    values = generator.normal(scale=3, size=(steps, *frame.shape))
    if frame.dtype == "uint8":
        values = generator.integers(0, 256, (steps, *frame.shape))
    for name, place in frame.part_slices().items():
        part = next(part for part in frame.parts or () if part.name == name)
        if part.categories is not None:
            last = np.array(part.first) + part.categories
            values[:, place] = generator.integers(part.first, last, (steps, part.size))
        elif part.integer:
            values[:, place] = generator.integers(
                int(part.low or 0), int(part.high or 0) + 1, (steps, part.size)
            )
        elif part.low is not None:
            values[:, place] = values[:, place].clip(part.low, part.high)
    if frame.low is not None or frame.high is not None:
        values = values.clip(frame.low, frame.high)
    return list(values.astype(frame.dtype))


def observations_of(spec: ObservationSpec, frames: list[Array]) -> list[Array]:
    """The observation of each step, as an environment that stacks these frames gives it."""
    latest: Any = spec.padding()
    observations = []
    for frame in frames:
        latest = spec.push(latest, frame[np.newaxis])
        observations.append(latest[0].copy())
    return observations


def spread_of(spec: ObservationSpec) -> tuple[float, ...] | None:
    """The spread of observations as `frames_of` gives them."""
    states: Any = np.stack(observations_of(spec, frames_of(spec, 9, 50)))
    spread = measure_spread(states, spec)
    return None if spread is None else tuple(spread)
