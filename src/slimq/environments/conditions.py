"""Custom conditions: a function in a file or a module that disturbs an observation.

It is called as `function(frame, strength, generator)` for each new frame, or each observation if
frames are not stacked, with the episode's own generator, and returns the disturbed frame.
"""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slimq.core.conditions.catalogue import CONDITIONS, Condition, MakeChannel
from slimq.core.conditions.disturbances import Channel, Frame, Sensor
from slimq.core.errors import EnvironmentFailure, InvalidInputError
from slimq.environments.foreign import FILE_REFERENCE, Reference, guarded, load

FIELD = "conditions"


@dataclass(frozen=True)
class CustomCondition:
    """A function that disturbs observations.

    Attributes:
        channel: makes an episode's channel from the function.
        code_sha256: SHA-256 of its file; None if it is from an installed module.
    """

    channel: MakeChannel
    code_sha256: str | None


def load_condition(condition: Condition) -> CustomCondition | None:
    """Loads the function of a condition; None if the condition is built in.

    Raises:
        InvalidInputError: there is no such file, module or function, or it has other parameters.
        EnvironmentFailure: the file or the module raises an exception.
    """
    if condition.name in CONDITIONS:
        return None
    reference = load(condition.name, condition.name, FIELD)
    if not callable(reference.target):
        received = f"{condition.name}, a {type(reference.target).__name__}"
        raise InvalidInputError(FIELD, "a function", received)
    try:
        inspect.signature(reference.target).bind(None, 0.0, None)
    except TypeError as error:
        expected = f"{condition.name} to take (frame, strength, generator)"
        raise InvalidInputError(FIELD, expected, str(error)) from error
    except ValueError:
        pass
    file = FILE_REFERENCE.fullmatch(condition.name)
    code = Path(file["file"]).read_bytes() if file else None
    digest = None if code is None else hashlib.sha256(code).hexdigest()
    return CustomCondition(_maker(condition, reference), digest)


def _maker(condition: Condition, reference: Reference) -> MakeChannel:
    def make(sensor: Sensor, strength: float, generator: np.random.Generator) -> Channel:
        def disturb(frame: Frame) -> Frame:
            with guarded(condition.name, "call", "condition"), reference.importable():
                arrived = np.asarray(reference.target(frame.copy(), strength, generator))
            if arrived.dtype.kind not in "biuf" or arrived.shape != sensor.shape:
                expected = f"numbers of shape {sensor.shape}"
                received = f"{arrived.dtype} of shape {arrived.shape}"
                problem = f"expected {expected}, received {received}"
                raise EnvironmentFailure(condition.name, "call", "return value", problem)
            if not np.isfinite(arrived).all():
                problem = "expected finite numbers, received NaN or infinity"
                raise EnvironmentFailure(condition.name, "call", "return value", problem)
            return sensor.restore(arrived.astype(np.float64))

        return disturb

    return make
