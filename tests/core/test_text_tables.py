from __future__ import annotations

from slimq.core.text_tables import markdown_table, text_table

LINES = [("variant", "kind", "bytes"), ("a", "x", "1"), ("longer-name", "y", "12,345")]


def test_columns_are_of_equal_width() -> None:
    lines = text_table(LINES).split("\n")
    assert lines == [
        "variant      kind   bytes",
        "a               x       1",
        "longer-name     y  12,345",
    ]


def test_the_requested_number_of_columns_are_names() -> None:
    assert text_table(LINES, names=2).split("\n")[1] == "a            x          1"
    assert text_table(LINES, names=3).split("\n")[1] == "a            x     1", "nothing trails"


def test_markdown_has_the_same_cells() -> None:
    assert markdown_table(LINES).split("\n") == [
        "| variant | kind | bytes |",
        "| --- | ---: | ---: |",
        "| a | x | 1 |",
        "| longer-name | y | 12,345 |",
    ]


def test_leading_names_of_a_markdown_table_are_left_aligned() -> None:
    head = ["policy", "variant", "bytes"]
    assert markdown_table([head], names=2).splitlines()[1] == "| --- | --- | ---: |"
