from __future__ import annotations

import numpy as np

from slimq.core.frames import newest
from slimq.core.observation import FrameStack, ObservationSpec


def test_the_newest_frame_is_the_last_along_its_axis() -> None:
    for shape, axis in (((4, 2, 3), 0), ((2, 3, 4), 2), ((2, 12), 1)):
        spec = ObservationSpec(dtype="uint8", shape=shape, stack=FrameStack(axis=axis, count=4))
        observation = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
        slot = shape[axis] // 4
        expected = np.split(observation, [shape[axis] - slot], axis=axis)[1]
        found = newest(observation[np.newaxis], spec)
        assert np.array_equal(found, expected.reshape(1, *spec.frame.shape))
