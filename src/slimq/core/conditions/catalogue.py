"""Conditions under which a policy plays: named, seeded disturbances with a strength.

A condition is a value such as `noise=4`. `CONDITIONS` lists the built-in ones, whose functions are
in `slimq.core.conditions.disturbances`. Frames are disturbed one by one as they arrive, before they
are stacked: a noisy frame is the same in every observation that contains it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from slimq.core.conditions import disturbances
from slimq.core.conditions.disturbances import ActionChannel, Channel, Sensor
from slimq.core.errors import InvalidInputError, suggestion
from slimq.core.observation import ObservationSpec, slices_of

ObservationKind = Literal["frames", "vectors"]
MakeChannel = Callable[[Sensor, float, np.random.Generator], Channel]
MakeActionChannel = Callable[[int, float, np.random.Generator], ActionChannel]
KINDS: tuple[ObservationKind, ...] = ("frames", "vectors")
MAX_STEPS = 1_000
MAX_NAME = 256
"""Maximum characters of a condition's name."""
STANDARD = "standard"
"""Name of the standard set in a list of conditions."""


@dataclass(frozen=True)
class Disturbance:
    """One row of `CONDITIONS`.

    Attributes:
        effect: the effect in words; `{}` stands for the strength.
        unit: unit of the strength, for help and errors.
        most: the largest strength.
        standard: strength in the standard set, by kind of observation; empty if it is not in the
            set.
        kinds: observations to which it applies.
        observation: disturbs frames as they arrive, if set.
        action: disturbs actions on their way to the environment, if set.
        whole: whether the strength must be a whole number.
        measured: whether only elements that measure something are disturbed; without any such
            element, the condition does not apply.
    """

    effect: str
    unit: str
    most: float
    standard: Mapping[ObservationKind, float]
    kinds: tuple[ObservationKind, ...] = KINDS
    observation: MakeChannel | None = None
    action: MakeActionChannel | None = None
    whole: bool = False
    measured: bool = False


_FRAMES: tuple[ObservationKind, ...] = ("frames",)
_VECTORS: tuple[ObservationKind, ...] = ("vectors",)
_SHARE, _PIXELS, _STEPS = "probability", "pixels", "steps"
_UNITS = "levels of a frame, or a share of each element's spread"

CONDITIONS: Mapping[str, Disturbance] = MappingProxyType(
    {
        "noise": Disturbance(
            "uniform noise of ±{}, new in each element at each step", _UNITS, 255,
            {"frames": 4, "vectors": 0.01}, observation=disturbances.noise, measured=True,
        ),
        "brightness": Disturbance(
            "every frame of an episode is brighter or darker by {} levels", "levels", 255,
            {"frames": 8}, _FRAMES, observation=disturbances.brightness,
        ),
        "bias": Disturbance(
            "each element is offset by ±{} of its spread for a whole episode",
            "share of each element's spread", 10,
            {"vectors": 0.01}, _VECTORS, observation=disturbances.bias, measured=True,
        ),
        "lost": Disturbance(
            "each frame is lost with probability {}; the observation then stays as it was",
            _SHARE, 1, {"frames": 0.1}, _FRAMES, observation=disturbances.lost,
        ),
        "held": Disturbance(
            "each element keeps its last value with probability {}, at each step", _SHARE, 1,
            {"vectors": 0.1}, _VECTORS, observation=disturbances.held,
        ),
        "sticky": Disturbance(
            "the previous action is repeated with probability {}", _SHARE, 1,
            {"frames": 0.25, "vectors": 0.25}, action=disturbances.sticky,
        ),
        "delayed": Disturbance(
            "observations arrive {} steps late", _STEPS, MAX_STEPS,
            {"frames": 1, "vectors": 1}, observation=disturbances.delayed, whole=True,
        ),
        "blank": Disturbance(
            "each frame is blank with probability {}", _SHARE, 1,
            {}, _FRAMES, observation=disturbances.blank,
        ),
        "contrast": Disturbance(
            "contrast is higher or lower by {} for a whole episode", "share", 1,
            {}, _FRAMES, observation=disturbances.contrast,
        ),
        "shift": Disturbance(
            "frames of an episode are shifted by up to {} pixels each way", _PIXELS, 84,
            {}, _FRAMES, observation=disturbances.shift, whole=True,
        ),
        "blur": Disturbance(
            "frames are blurred by a Gaussian with a standard deviation of {} pixels", _PIXELS, 20,
            {}, _FRAMES, observation=disturbances.blur,
        ),
        "repeated": Disturbance(
            "the previous frame arrives again with probability {}", _SHARE, 1,
            {}, observation=disturbances.repeated,
        ),
        "quantized": Disturbance(
            "values are rounded to multiples of {}", _UNITS, 255,
            {}, observation=disturbances.quantized, measured=True,
        ),
        "started": Disturbance(
            "up to {} random actions at the start of an episode", _STEPS, MAX_STEPS,
            {}, action=disturbances.started, whole=True,
        ),
    }
)  # fmt: skip


class Condition(BaseModel):
    """A disturbance and its strength."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        min_length=1,
        max_length=MAX_NAME,
        description="a built-in one, such as noise, or `FILE.py:function` or `module:function`",
    )
    strength: float = Field(ge=0, allow_inf_nan=False, description="0 changes nothing")

    @property
    def label(self) -> str:
        """Its form on the command line, such as `noise=4`."""
        return f"{self.name}={self.number}"

    @property
    def number(self) -> str:
        """Its strength, in the shortest form that gives the same number."""
        return repr(self.strength).removesuffix(".0")

    @property
    def row(self) -> Disturbance:
        """The built-in disturbance.

        Raises:
            InvalidInputError: there is none of this name.
        """
        if self.name not in CONDITIONS:
            raise _unknown(self.name)
        return CONDITIONS[self.name]

    @property
    def effect(self) -> str:
        """Its effect, in words."""
        return self.row.effect.format(self.number) if self.name in CONDITIONS else "custom"


def parse_condition(text: str, kind: ObservationKind) -> Condition:
    """Reads a condition such as `noise=4`, or `FILE.py:function=0.5`.

    Without a strength, the one in the standard set is used, or 1 for a function.

    Args:
        text: the name, and the strength after an equals sign.
        kind: the kind of observations to disturb.

    Raises:
        InvalidInputError: the name is unknown, or the strength is out of range.
    """
    file, colon, last = text.strip().rpartition(":")
    last, equals, number = last.partition("=")
    name = f"{file}{colon}{last}"
    if len(name) > MAX_NAME or not name.isprintable():
        limit = f"a name of at most {MAX_NAME} printable characters"
        received = f"{len(name)} characters" if len(name) > MAX_NAME else repr(name)
        raise InvalidInputError("conditions", limit, received)
    if colon:
        return Condition(name=name, strength=_strength(name, number, math.inf) if equals else 1.0)
    if name not in CONDITIONS:
        raise _unknown(name)
    row = CONDITIONS[name]
    if not equals:
        if kind not in row.standard:
            raise InvalidInputError(f"conditions.{name}", f"{name}=STRENGTH ({row.unit})", text)
        return Condition(name=name, strength=row.standard[kind])
    strength = _strength(name, number, row.most)
    if row.whole and strength != int(strength):
        raise InvalidInputError(f"conditions.{name}", "a whole number", number)
    return Condition(name=name, strength=strength)


def _unknown(name: str) -> InvalidInputError:
    expected = f"standard, {', '.join(CONDITIONS)}, or FILE.py:function"
    received = repr(name) + suggestion(name, CONDITIONS) if name else "nothing"
    return InvalidInputError("conditions", expected, received)


def _strength(name: str, text: str, most: float) -> float:
    unit = f" ({CONDITIONS[name].unit})" if name in CONDITIONS else ""
    limit = f"a number from 0 to {most:g}{unit}" if most < math.inf else "a number of at least 0"
    try:
        strength = float(text)
    except ValueError:
        strength = math.nan
    if not 0 <= strength <= most or strength == math.inf:
        raise InvalidInputError(f"conditions.{name}", limit, text or "nothing")
    return abs(strength)


def kind_of(observation: ObservationSpec) -> ObservationKind:
    """The kind of observations: `frames` for images of levels; `vectors` for all others."""
    frame = observation.frame
    levels = observation.dtype == "uint8" and (frame.high is None or frame.high > 1)
    return "frames" if levels and frame.parts is None and len(frame.shape) > 1 else "vectors"


def standard_conditions(observation: ObservationSpec) -> tuple[Condition, ...]:
    """The standard set for these observations, without conditions that would change nothing."""
    kind = kind_of(observation)
    return tuple(
        Condition(name=name, strength=row.standard[kind])
        for name, row in CONDITIONS.items()
        if kind in row.standard and _applies(row, observation)
    )


def select_conditions(names: Iterable[str], observation: ObservationSpec) -> tuple[Condition, ...]:
    """Reads a list of conditions, such as `standard`, `blur=1` and `my_conditions.py:fog=0.5`.

    Raises:
        InvalidInputError: a condition is unknown, given twice, or not for these observations.
    """
    chosen: list[Condition] = []
    for name in names:
        if name == STANDARD:
            chosen += standard_conditions(observation)
        else:
            condition = parse_condition(name, kind_of(observation))
            require_applicable(condition, observation)
            chosen.append(condition)
    for condition, times in Counter(chosen).items():
        if times > 1:
            raise InvalidInputError("conditions", "each condition once", f"{condition.label} twice")
    return tuple(chosen)


def require_applicable(condition: Condition, observation: ObservationSpec) -> None:
    """Checks that a condition applies to these observations.

    Raises:
        InvalidInputError: it is for the other kind, or would not change anything.
    """
    if condition.name not in CONDITIONS:
        return
    row, kind = condition.row, kind_of(observation)
    if kind not in row.kinds:
        raise InvalidInputError(
            f"conditions.{condition.name}", f"a condition for {kind}", f"one for {row.kinds[0]}"
        )
    if not _applies(row, observation):
        expected = "observations with elements that are quantities"
        raise InvalidInputError(f"conditions.{condition.name}", expected, "categories and flags")


def _applies(row: Disturbance, observation: ObservationSpec) -> bool:
    return not row.measured or bool(measuring(observation.frame).any())


def measuring(frame: ObservationSpec) -> npt.NDArray[np.bool_]:
    """Mask of the elements that measure something, `shape`: neither categories nor flags."""
    if frame.parts is None:
        flags = frame.dtype == "uint8" and frame.high is not None and frame.high <= 1
        return np.full(frame.shape, not flags)
    values = np.ones(frame.shape, np.bool_)
    for part, place in zip(frame.parts, slices_of(frame.parts), strict=True):
        whole = part.integer or frame.dtype != "float32"
        flags = whole and part.low == 0 and part.high == 1
        values[place] = part.categories is None and not flags
    return values
