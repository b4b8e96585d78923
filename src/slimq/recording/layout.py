"""Where things are in the picture of a video: measured once, the same for every picture.

Everything follows from the width of a panel, so that small pictures stay readable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import ImageFont

from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import InvalidInputError
from slimq.recording.episode import Played, disagreement

COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#e377c2")
"""Of the variants: those of the plots, without red, which marks a difference, and grey."""
MAX_VARIANTS = len(COLOURS)
MAX_BARS = 18
"""As many actions as Atari has; of more, those with the largest Q-values are drawn."""
MIN_PANEL, PANEL, MAX_PANEL = 120, 320, 1280
"""Width of a panel in pixels: the least, the default and the most."""
_SMALLEST, _LARGEST = 9, 28
"""Size of letters in pixels."""
_TALLEST = 1.4
"""Height of what the environment shows, over its width, at most."""


@dataclass(frozen=True)
class Subject:
    """One variant of the video.

    Attributes:
        episode: what it played.
        bytes: size of its model on disk.
    """

    episode: Played
    bytes: int


@dataclass(frozen=True)
class Scene:
    """What stays the same in all pictures of a video.

    Attributes:
        heading: lines above everything.
        subjects: the variants, from left to right.
        actions: `(index, name)` of the actions that are drawn.
        low: left end of the scale of Q-values.
        high: right end.
        differs: `(steps,)`, whether the greedy actions differ.
    """

    heading: tuple[str, str]
    subjects: tuple[Subject, ...]
    actions: tuple[tuple[int, str], ...]
    low: float
    high: float
    differs: npt.NDArray[np.bool_]

    @property
    def decimals(self) -> int:
        """Digits after the point of each Q-value: three significant ones for the largest."""
        largest = max(abs(self.low), abs(self.high), 1e-3)
        return max(0, 2 - math.floor(math.log10(largest)))


@dataclass(frozen=True)
class Layout:
    """Positions and sizes in pixels.

    Attributes:
        width: of the whole picture, even, as H.264 needs.
        height: the same.
        panel: width of a panel.
        gap: space around things.
        line: height of a line of text.
        shown: width and height of what the environment shows.
        font: of all text.
    """

    width: int
    height: int
    panel: int
    gap: int
    line: int
    shown: tuple[int, int]
    font: ImageFont.FreeTypeFont

    def left(self, index: int) -> int:
        """Left edge of a panel."""
        return self.gap + index * (self.panel + self.gap)

    @property
    def top(self) -> int:
        """Upper edge of all panels."""
        return 2 * self.line + 2 * self.gap

    @property
    def bars(self) -> int:
        """Upper edge of the bars."""
        return self.top + 2 * self.line + self.shown[1] + self.gap


def make_scene(
    name: str,
    environment: EnvironmentSpec,
    conditions: str,
    subjects: Sequence[Subject],
    actions: Sequence[str],
) -> Scene:
    """Fixes the scale and the actions of a video.

    Args:
        name: the policy's.
        environment: where it plays.
        conditions: seed and what else the episodes have in common.
        subjects: the variants.
        actions: names of all actions.
    """
    q_values = np.concatenate([subject.episode.q_values for subject in subjects])
    low, high = float(q_values.min()), float(q_values.max())
    # A bar begins at 0 where 0 is near, and at the end of the scale otherwise.
    if 0 < low < high / 2:
        low = 0.0
    if low / 2 < high < 0:
        high = 0.0
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    drawn = np.sort(np.argsort(-q_values.max(axis=0), kind="stable")[:MAX_BARS])
    return Scene(
        (f"{name}   {environment.id.rpartition(':')[2]}", conditions),
        tuple(subjects),
        tuple((int(index), actions[index]) for index in drawn),
        low,
        high,
        disagreement([subject.episode for subject in subjects]),
    )


def measure(scene: Scene, picture: tuple[int, int], width: int | None) -> Layout:
    """Places everything.

    Args:
        scene: what is drawn.
        picture: height and width of what the environment renders.
        width: of the whole picture at most; None for panels of the default width.

    Raises:
        InvalidInputError: the width leaves too little for a panel, or is too large.
    """
    count = len(scene.subjects)
    least, most = (size * count + 10 * (count + 1) for size in (MIN_PANEL, MAX_PANEL))
    if width is not None and not least <= width <= most:
        expected = f"from {least} to {most} pixels for {count} variants"
        raise InvalidInputError("--width", expected, str(width))
    whole = width or count * PANEL
    size = max(_SMALLEST, min(_LARGEST, round(whole / count / 22)))
    gap, line = max(4, size // 2), round(size * 1.5)
    panel = (whole - gap * (count + 1)) // count
    height, across = picture
    shown = _fit(across, height, panel)
    below = (len(scene.actions) + 1) * line
    total = 2 * gap + 4 * line + shown[1] + gap + below + gap + line + 2 * gap
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise InvalidInputError("Pillow", "one with FreeType", "one without it")
    return Layout(whole // 2 * 2, total + total % 2, panel, gap, line, shown, font)


def _fit(width: int, height: int, panel: int) -> tuple[int, int]:
    """The size at which a picture is shown: whole multiples where it is enlarged by much."""
    tallest = round(panel * _TALLEST)
    factor = min(panel / width, tallest / height)
    if factor >= 2:
        factor = math.floor(factor)
    return max(1, round(width * factor)), max(1, round(height * factor))
