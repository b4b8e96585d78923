"""Draws one picture of a video: per variant what the environment shows, and its Q-values as bars.

The greedy action's bar has the variant's colour; an arrowhead marks the action that is taken, which
is another one where exploration chose it. Red means that the greedy actions differ.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from slimq.recording.episode import Moment
from slimq.recording.layout import COLOURS, Layout, Scene, Subject

_TEXT, _FAINT, _BAR, _RULE = "#222222", "#777777", "#c7c7c7", "#e3e3e3"
_DIFFERS, _BACKGROUND = "#d62728", "#ffffff"


def draw(scene: Scene, layout: Layout, moments: Sequence[Moment], step: int) -> Image.Image:
    """The picture of one step of all episodes.

    Args:
        scene: what stays the same.
        layout: where it is.
        moments: one per variant.
        step: index of the step; the number of steps for what follows the last one.
    """
    image = Image.new("RGB", (layout.width, layout.height), _BACKGROUND)
    canvas = ImageDraw.Draw(image)
    # The default font has no more than ASCII.
    canvas.fontmode = "L"
    differs = step < len(scene.differs) and bool(scene.differs[step])
    for row, text in enumerate(scene.heading):
        place = (layout.gap, layout.gap + row * layout.line)
        _write(canvas, layout, place, text, _FAINT, layout.width - 2 * layout.gap)
    for index, (subject, moment) in enumerate(zip(scene.subjects, moments, strict=True)):
        left = layout.left(index)
        _draw_head(canvas, layout, subject, left, COLOURS[index])
        _paste(image, layout, moment, left)
        _draw_status(canvas, layout, subject, moment, left)
        _draw_bars(canvas, scene, layout, subject, moment, left, COLOURS[index], differs)
    _draw_timeline(canvas, scene, layout, step)
    return image


def _draw_head(
    canvas: ImageDraw.ImageDraw, layout: Layout, subject: Subject, left: int, colour: str
) -> None:
    size = f"{subject.bytes:,} bytes"
    room = layout.panel - _width(layout, size) - layout.gap
    _write(canvas, layout, (left, layout.top), subject.episode.variant, colour, room)
    _write_right(canvas, layout, (left + layout.panel, layout.top), size, _FAINT)


def _paste(image: Image.Image, layout: Layout, moment: Moment, left: int) -> None:
    shown = Image.fromarray(moment.picture)
    enlarged = layout.shown[0] > shown.width
    resample = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
    indent = (layout.panel - layout.shown[0]) // 2
    image.paste(shown.resize(layout.shown, resample), (left + indent, layout.top + layout.line))


def _draw_status(
    canvas: ImageDraw.ImageDraw, layout: Layout, subject: Subject, moment: Moment, left: int
) -> None:
    top = layout.top + layout.line + layout.shown[1] + layout.gap // 2
    _write(canvas, layout, (left, top), f"return {moment.return_:g}", _TEXT, layout.panel)
    end = "ended after" if subject.episode.terminated else "cut at"
    word = end if moment.ended else "step"
    _write_right(canvas, layout, (left + layout.panel, top), f"{word} {moment.step}", _TEXT)


def _draw_bars(
    canvas: ImageDraw.ImageDraw,
    scene: Scene,
    layout: Layout,
    subject: Subject,
    moment: Moment,
    left: int,
    colour: str,
    differs: bool,
) -> None:
    names = min(
        max(_width(layout, name) for _, name in scene.actions) + layout.line, layout.panel // 3
    )
    forms = [f"{value:.{scene.decimals}f}" for value in (scene.low, scene.high)]
    start = left + names + layout.gap
    end = left + layout.panel - max(_width(layout, form) for form in forms) - layout.gap
    zero = _place(scene, min(max(0.0, scene.low), scene.high), start, end)
    bottom = layout.bars + len(scene.actions) * layout.line
    canvas.line([(zero, layout.bars), (zero, bottom)], fill=_FAINT)
    _write(canvas, layout, (start, bottom), forms[0], _FAINT, layout.panel)
    _write_right(canvas, layout, (end, bottom), forms[1], _FAINT)
    if moment.ended:
        return
    q_values, taken = subject.episode.q_values[moment.step], subject.episode.actions[moment.step]
    greedy = int(q_values.argmax())
    inset = max(1, layout.line // 6)
    for row, (action, name) in enumerate(scene.actions):
        top = layout.bars + row * layout.line
        is_greedy = action == greedy
        ends = sorted((zero, _place(scene, float(q_values[action]), start, end)))
        box = (ends[0], top + inset, max(ends[1], ends[0] + 1), top + layout.line - inset)
        canvas.rectangle(box, fill=colour if is_greedy else _BAR)
        if action == taken:
            _draw_arrowhead(canvas, layout, left, top)
        text = (left + layout.line * 2 // 3, top)
        fill = _DIFFERS if is_greedy and differs else _TEXT
        _write(canvas, layout, text, name, fill, names)
        value = f"{q_values[action]:.{scene.decimals}f}"
        _write_right(canvas, layout, (left + layout.panel, top), value, fill)
    if differs:
        frame = (left - 3, layout.bars - 2, left + layout.panel + 2, bottom + 1)
        canvas.rectangle(frame, outline=_DIFFERS, width=2)


def _draw_timeline(canvas: ImageDraw.ImageDraw, scene: Scene, layout: Layout, step: int) -> None:
    """How far the episodes are; with several variants also where their greedy actions differ."""
    steps = len(scene.differs)
    left, right = layout.gap, layout.width - layout.gap
    top = layout.height - 2 * layout.gap - layout.line
    height = max(3, layout.gap)
    canvas.rectangle((left, top, right, top + height), fill=_RULE)
    for index in scene.differs.nonzero()[0].tolist():
        place = left + (right - left) * index // steps
        canvas.line([(place, top), (place, top + height)], fill=_DIFFERS)
    now = left + (right - left) * min(step, steps) // steps
    canvas.rectangle((now - 1, top - 2, now + 1, top + height + 2), fill=_TEXT)
    text = (left, top + height + 2)
    if len(scene.subjects) == 1:
        _write(canvas, layout, text, f"{steps} steps", _FAINT, layout.width)
        return
    count = int(scene.differs.sum())
    said = f"greedy actions differ at {count} of {steps} steps"
    differs = step < steps and bool(scene.differs[step])
    _write(canvas, layout, text, said, _DIFFERS if differs else _FAINT, layout.width)


def _draw_arrowhead(canvas: ImageDraw.ImageDraw, layout: Layout, left: int, top: int) -> None:
    size, middle = layout.line // 4, top + layout.line // 2
    canvas.polygon(
        [(left, middle - size), (left + size, middle), (left, middle + size)], fill=_TEXT
    )


def _place(scene: Scene, value: float, start: int, end: int) -> int:
    """Position of a Q-value between the ends of the scale."""
    return round(start + (end - start) * (value - scene.low) / (scene.high - scene.low))


def _plain(text: str) -> str:
    """The text in the letters that the font has."""
    return text.encode("ascii", "replace").decode()


def _width(layout: Layout, text: str) -> int:
    return int(layout.font.getlength(_plain(text)))


def _write(
    canvas: ImageDraw.ImageDraw,
    layout: Layout,
    place: tuple[int, int],
    text: str,
    fill: str,
    room: int,
) -> None:
    """Writes text from the left, cut to `room` pixels."""
    shown = _plain(text)
    while shown and layout.font.getlength(shown) > room:
        shown = shown[:-1]
    canvas.text(place, shown, font=layout.font, fill=fill)


def _write_right(
    canvas: ImageDraw.ImageDraw, layout: Layout, place: tuple[int, int], text: str, fill: str
) -> None:
    """Writes text that ends at a place."""
    shown = _plain(text)
    canvas.text((place[0] - _width(layout, text), place[1]), shown, font=layout.font, fill=fill)
