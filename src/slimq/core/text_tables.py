"""Tables as terminal text and as Markdown, with names left-aligned and numbers right-aligned."""

from __future__ import annotations

from collections.abc import Sequence

Lines = Sequence[Sequence[str]]
"""The cells of a table, line by line, starting with the header; all lines have equal length."""


def text_table(lines: Lines, names: int = 1) -> str:
    """Formats a table with padded columns.

    Args:
        lines: the cells.
        names: number of leading columns that are names.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < names else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown_table(lines: Lines, names: int = 1) -> str:
    """Formats a Markdown table.

    Args:
        lines: the cells.
        names: number of leading columns that are names.
    """
    head, *rows = lines
    rule = (*["---"] * names, *["---:"] * (len(head) - names))
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows))
