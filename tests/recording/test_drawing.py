from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageColor

from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import InvalidInputError
from slimq.recording.drawing import draw
from slimq.recording.episode import Moment, Played
from slimq.recording.layout import COLOURS, Layout, Scene, Subject, make_scene, measure

RED = ImageColor.getrgb("#d62728")
BAR = ImageColor.getrgb("#c7c7c7")
NAMES = ["left", "stay", "right"]


def subject(name: str, q_values: list[list[float]]) -> Subject:
    array = np.array(q_values, np.float32)
    return Subject(Played(name, array, array.argmax(axis=1), 1.0, terminated=True), 1000)


def scene_of(*subjects: Subject) -> Scene:
    environment = EnvironmentSpec(id="games:Blank-v0")
    return make_scene("blank", environment, "held-out seed 1", subjects, NAMES)


def picture(scene: Scene, layout: Layout, step: int, *, ended: bool = False) -> np.ndarray:
    blank = np.zeros((40, 60, 3), np.uint8)
    moment = Moment(blank, step, 0.0, ended=ended)
    drawn: Image.Image = draw(scene, layout, [moment] * len(scene.subjects), step)
    return np.asarray(drawn)


def extent(image: np.ndarray, layout: Layout, panel: int, row: int, colour: tuple[int, ...]) -> int:
    """Pixels of a colour in the middle of an action's row."""
    left, top = layout.left(panel), layout.bars + row * layout.line + layout.line // 2
    return int((image[top, left : left + layout.panel] == colour).all(axis=1).sum())


def test_a_bar_is_as_long_as_its_share_of_the_whole_videos_scale() -> None:
    scene = scene_of(
        subject("a", [[1.0, 4.0, 2.0], [8.0, 2.0, 4.0]]), subject("b", [[0, 1, 0], [1, 0, 0]])
    )
    assert (scene.low, scene.high) == (0.0, 8.0)
    layout = measure(scene, (40, 60), 640)
    colour = ImageColor.getrgb(COLOURS[0])
    first, second = picture(scene, layout, 0), picture(scene, layout, 1)
    four, eight = extent(first, layout, 0, 1, colour), extent(second, layout, 0, 0, colour)
    assert four == pytest.approx(eight / 2, abs=2)
    assert extent(first, layout, 0, 2, BAR) == pytest.approx(four / 2, abs=2)
    assert extent(second, layout, 1, 0, ImageColor.getrgb(COLOURS[1])) < four / 2


def test_negative_values_grow_to_the_left_from_zero() -> None:
    scene = scene_of(subject("a", [[-4.0, -2.0, -8.0]]))
    assert (scene.low, scene.high) == (-8.0, 0.0)
    layout = measure(scene, (40, 60), None)
    image = picture(scene, layout, 0)
    colour = ImageColor.getrgb(COLOURS[0])
    greedy = extent(image, layout, 0, 1, colour)
    assert extent(image, layout, 0, 2, BAR) == pytest.approx(4 * greedy, abs=6)


def test_values_far_from_zero_fill_the_scale() -> None:
    scene = scene_of(subject("a", [[97.0, 98.0, 97.5]]))
    assert (scene.low, scene.high) == (97.0, 98.0)
    assert scene.decimals == 1


def test_red_marks_the_steps_at_which_greedy_actions_differ() -> None:
    scene = scene_of(subject("a", [[1, 0, 0], [0, 1, 0]]), subject("b", [[1, 0, 0], [1, 0, 0]]))
    layout = measure(scene, (40, 60), None)
    reds = [(picture(scene, layout, step) == RED).all(axis=2).sum() for step in (0, 1)]
    timeline = 2 * layout.gap + layout.line
    above = picture(scene, layout, 0)[: layout.height - timeline]
    assert not (above == RED).all(axis=2).any()
    assert 0 < reds[0] < reds[1] - layout.panel


def test_at_the_end_there_are_no_bars() -> None:
    scene = scene_of(subject("a", [[1, 2, 3]]))
    layout = measure(scene, (40, 60), None)
    image = picture(scene, layout, 1, ended=True)
    assert extent(image, layout, 0, 2, ImageColor.getrgb(COLOURS[0])) == 0


@pytest.mark.parametrize("width", [201, 333, 640, None])
def test_sizes_are_even_and_fit(width: int | None) -> None:
    scene = scene_of(subject("a", [[1, 2, 3]]))
    layout = measure(scene, (210, 160), width)
    image = picture(scene, layout, 0)
    assert image.shape == (layout.height, layout.width, 3)
    assert layout.width % 2 == layout.height % 2 == 0
    assert layout.width <= (width or 320)


@pytest.mark.parametrize("width", [100, 5000])
def test_a_width_out_of_range_is_refused(width: int) -> None:
    scene = scene_of(subject("a", [[1, 2, 3]]))
    with pytest.raises(InvalidInputError, match=rf"--width: .* for 1 variants, received {width}"):
        measure(scene, (40, 60), width)


def test_of_many_actions_the_best_are_drawn() -> None:
    values = np.arange(40, dtype=np.float32)[np.newaxis]
    many = Subject(Played("a", values, values.argmax(axis=1), 0.0, terminated=True), 1)
    environment = EnvironmentSpec(id="Many-v0")
    scene = make_scene("many", environment, "", [many], [f"a{n}" for n in range(40)])
    assert [index for index, _ in scene.actions] == list(range(22, 40))
