"""Building blocks of C text: indented blocks, numbers, arrays, comments, index expressions."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator, Sequence

import numpy as np

from slimq_compression.export.layers.tensors import Array

WIDTH = 100
MAX_FILLED = 20_000
"""Most elements of an array that are wrapped to full lines; 100,000 would take a second."""
C_TYPES = {
    "float32": "float",
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "uint16": "uint16_t",
}
"""C types of array elements, by numpy type name."""


class Code:
    """Lines of C with indentation."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 0

    def line(self, text: str) -> None:
        """Adds a line."""
        self.lines.append("    " * self.depth + text if text else "")

    @contextlib.contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Adds lines in braces after `head`."""
        self.line(f"{head} {{")
        self.depth += 1
        yield
        self.depth -= 1
        self.line("}")

    @contextlib.contextmanager
    def function(self, head: str) -> Iterator[None]:
        """Adds a function, whose opening brace has its own line."""
        self.line(head)
        self.line("{")
        self.depth += 1
        yield
        self.depth -= 1
        self.line("}")

    def loop(self, variable: str, count: int) -> contextlib.AbstractContextManager[None]:
        """Adds a loop from 0 to `count`."""
        return self.block(f"for (int32_t {variable} = 0; {variable} < {count}; {variable}++)")

    def text(self) -> str:
        """All lines."""
        return "\n".join(self.lines) + "\n"


def number(value: float) -> str:
    """A float32 literal that reads back as the same number."""
    single = np.float32(value)
    if np.isinf(single):
        return "INFINITY" if single > 0 else "-INFINITY"
    text = str(single)
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def array(name: str, values: Array) -> str:
    """The definition of a constant array."""
    kind = C_TYPES[str(values.dtype)]
    flat = values.reshape(-1)
    if values.dtype == np.float32:
        words = [number(value) for value in flat]
    else:
        words = [str(value) for value in flat.tolist()]
    body = _filled(words) if len(words) <= MAX_FILLED else _lines(words)
    return f"static const {kind} {name}[{len(words)}] = {{\n{body}\n}};\n"


def _filled(words: Sequence[str]) -> str:
    """The words, wrapped to full lines."""
    return textwrap.fill(
        ", ".join(words),
        WIDTH,
        initial_indent="    ",
        subsequent_indent="    ",
        break_on_hyphens=False,
    )


def _lines(words: Sequence[str]) -> str:
    """The words, a fixed number on each line, which is far faster than wrapping."""
    each = 8 if len(words[0]) > 4 else 20
    starts = range(0, len(words), each)
    return "\n".join(f"    {', '.join(words[start : start + each])}," for start in starts)


def comment(text: str, *, width: int = WIDTH) -> str:
    """A comment of one or more lines; the text cannot end it early."""
    safe = plain(text)
    if len(safe) + 6 <= width and "\n" not in safe:
        return f"/* {safe} */"
    wrapped = [
        line
        for paragraph in safe.split("\n")
        for line in (
            textwrap.wrap(paragraph, width - 3, break_on_hyphens=False) if paragraph else [""]
        )
    ]
    return "\n".join(["/*", *(f" * {line}".rstrip() for line in wrapped), " */"])


def plain(text: str) -> str:
    """The text without control characters and without anything that begins or ends a comment."""
    kept = "".join(c if c == "\n" or c.isprintable() else " " for c in text)
    return kept.replace("*/", "* /").replace("/*", "/ *").replace("\\", "/").replace("??", "? ?")


def index(terms: Sequence[tuple[str, int]], offset: int = 0) -> str:
    """An index expression: the sum of variables times strides."""
    parts = [name if stride == 1 else f"{name} * {stride}" for name, stride in terms if stride]
    if offset or not parts:
        parts.append(str(offset))
    return " + ".join(parts)
