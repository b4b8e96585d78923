"""Frames of stacked observations."""

from __future__ import annotations

from slimq.core.observation import Observations, ObservationSpec


def newest(observations: Observations, spec: ObservationSpec) -> Observations:
    """The newest frame of each observation, which `ObservationSpec.push` has added last.

    Args:
        observations: `(batch, *shape)`.
        spec: their layout.

    Returns:
        `(batch, *frame.shape)`; the observations themselves if frames are not stacked.
    """
    if spec.stack is None:
        return observations
    axis, shape = spec.stack.axis + 1, spec.stack.slot(spec.shape)
    cut = observations[(slice(None),) * axis + (slice(-shape[axis - 1], None),)]
    return cut.reshape(len(observations), *spec.frame.shape)
