from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from slimq.core.errors import ConfigError
from slimq.core.toml_files import parse_toml, read_toml


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Circle(Strict):
    kind: Literal["circle"]
    radius: float = 1.0


class Square(Strict):
    kind: Literal["square"]
    sides: tuple[int, int] = (1, 1)


class Paper(Strict):
    width: int
    height: int
    color: str = "white"


class Drawing(Strict):
    title: str
    shapes: list[Annotated[Circle | Square, Field(discriminator="kind")]] = []
    frame: Square | None = None


TEXT = """# A drawing.
title = "One"

[[shapes]]  # the first
kind = "circle"
radius = 2.5

[[shapes]]
kind = "square"
sides = [
    1,
    2,
]

[frame]
kind = "square"
"""


def test_a_document_is_what_is_in_it() -> None:
    drawing = parse_toml(TEXT, "a.toml").validate(Drawing)
    assert [shape.kind for shape in drawing.shapes] == ["circle", "square"]
    assert drawing.frame == Square(kind="square")


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (["title"], 2),
        (["shapes"], 4),
        (["shapes", 0, "radius"], 6),
        (["shapes", 1], 8),
        (["shapes", 1, "sides"], 10),
        (["frame", "kind"], 16),
        (["frame", "absent"], 15),
        (["shapes", 5], 4),
        (["absent"], None),
        ([], None),
    ],
)
def test_the_line_of_a_value_is_that_on_which_it_begins(keys: list[Any], line: int | None) -> None:
    assert parse_toml(TEXT, "a.toml").line(keys) == line


def test_lines_are_counted_through_strings_of_several_lines() -> None:
    text = 'a = """\n\nb = 1\u2028\n"""\nb = 2\n'
    document = parse_toml(text, "a.toml")
    assert [document.line([key]) for key in "ab"] == [1, 5]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title", "titel", "titel: unknown key 'titel', did you mean 'title'? (at line 2)"),
        ('title = "One"\n', "", "title: is missing"),
        (
            "radius = 2.5",
            "radus = 2.5",
            "shapes.0.circle.radus: unknown key 'radus', did you mean ",
        ),
        (
            "radius = 2.5",
            'radius = "wide"',
            "shapes.0.circle.radius: Input should be a valid number, received 'wide' (at line 6)",
        ),
        (
            "    2,",
            "    2.5,",
            "shapes.1.square.sides.1: Input should be a valid integer, received 2.5 (at line 10)",
        ),
        (
            '[frame]\nkind = "square"',
            '[frame]\nkind = "square"\nsidse = [1, 1]',
            "frame.sidse: unknown key 'sidse', did you mean 'sides'? (at line 17)",
        ),
        ('[frame]\nkind = "square"', "[frame]", "frame.kind: is missing (at line 15)"),
        ('"circle"', '"oval"', "shapes.0: Input tag 'oval' found using 'kind' does not match "),
        ("sides = [", "sides = ", "syntax: "),
    ],
)
def test_a_mistake_is_named_with_place_line_and_nearest_key(
    old: str, new: str, message: str
) -> None:
    assert old in TEXT
    with pytest.raises(ConfigError) as caught:
        parse_toml(TEXT.replace(old, new, 1), "a.toml").validate(Drawing)
    assert str(caught.value).startswith(f"a.toml: {message}")


def test_a_table_without_some_of_its_keys_is_checked_in_its_place() -> None:
    document = parse_toml(TEXT, "a.toml")
    with pytest.raises(ConfigError, match=r"^a\.toml: shape 2\.sides: is missing \(at line 8\)$"):
        document.validate(Sides, {}, ["shapes", 1], "shape 2")


class Sides(Strict):
    sides: tuple[int, int]


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: file: No such file"):
        read_toml(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"binary\.toml: syntax: "):
        read_toml(tmp_path / "binary.toml")


class Numbers(Strict):
    rate: float = 0.5
    steps: int = 1
    fast: bool = False
    name: str = ""
    sides: tuple[int, ...] = ()


@pytest.mark.parametrize(
    "text",
    [
        'rate = "1e-3"',
        "rate = true",
        'steps = "5"',
        "steps = 1.5",
        "steps = true",
        "fast = 1",
        'fast = "yes"',
        "name = 5",
        "name = true",
        'sides = ["1"]',
        "rate = 2026-11-29",
    ],
)
def test_a_value_of_another_type_is_refused_and_not_converted(text: str) -> None:
    key = text.split()[0]
    with pytest.raises(ConfigError, match=rf"a.toml: {key}.*received .*at line 1"):
        parse_toml(text, "a.toml").validate(Numbers)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rate = 1", Numbers(rate=1.0)),
        ("steps = 1e6", Numbers(steps=1_000_000)),
        ("sides = [1e1, 2]", Numbers(sides=(10, 2))),
        ("fast = true\nname = '5'", Numbers(fast=True, name="5")),
    ],
)
def test_numbers_may_be_written_as_people_do(text: str, expected: Numbers) -> None:
    assert parse_toml(text, "a.toml").validate(Numbers) == expected


def test_another_mistake_beside_a_whole_number_is_the_one_that_is_reported() -> None:
    with pytest.raises(ConfigError, match=r"a.toml: rate"):
        parse_toml("steps = 1e6\nrate = 'x'", "a.toml").validate(Numbers)


class Page(Strict):
    paper: Paper
    pen: int = Field(description="its width")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pen = 1", "paper: expected a table [paper] with width, height"),
        ("[paper]\nwidth = 1\nheight = 1", "pen: is missing (its width)"),
        ("pen = 1\n[paper]\nwidth = 1", "paper.height: is missing (at line 2)"),
    ],
)
def test_what_is_missing_is_told_by_its_keys_or_its_meaning(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_toml(text, "a.toml").validate(Page)
    assert str(caught.value) == f"a.toml: {message}"
