"""Tables as text for a terminal and as Markdown: names to the left, numbers to the right."""

from __future__ import annotations

from collections.abc import Sequence

Lines = Sequence[Sequence[str]]
"""The cells of a table by line, the head first; all lines have as many."""


def text_table(lines: Lines, names: int = 1) -> str:
    """Columns of equal width.

    Args:
        lines: the cells.
        names: how many columns, from the first on, are names.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < names else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown_table(lines: Lines) -> str:
    """The first column are names."""
    head, *rows = lines
    rule = ("---", *["---:"] * (len(head) - 1))
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows))
