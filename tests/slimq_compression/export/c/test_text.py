"""Numbers read back as themselves, and no text escapes from a comment."""

from __future__ import annotations

import numpy as np
import pytest

from slimq_compression.export.c.text import array, comment, index, number


def test_numbers_are_exact() -> None:
    generator = np.random.default_rng(0)
    raw = generator.integers(0, 2**32, 2000, dtype=np.uint32).view(np.float32)
    for value in raw[np.isfinite(raw)]:
        text = number(value)
        assert text.endswith("f")
        assert np.float32(text[:-1]) == value


def test_a_wrapped_array_keeps_every_number_whole() -> None:
    values = np.float32(1.5) * 10.0 ** -np.arange(5, 35, dtype=np.float32)
    text = array("tiny", values.astype(np.float32))
    body = text.partition("{")[2].rpartition("}")[0]
    assert [np.float32(word.strip()[:-1]) for word in body.split(",")] == values.tolist()


@pytest.mark.parametrize("text", ["a */ system(1); /*", "ends with \\\nmore", "what??/\n next"])
def test_comments_cannot_be_left(text: str) -> None:
    made = comment(text)
    inner = made.removeprefix("/*").removesuffix("*/")
    assert "*/" not in inner
    assert "/*" not in inner
    assert "\\" not in inner
    assert "??" not in inner


def test_indices_leave_out_what_is_zero() -> None:
    assert index([("c", 64), ("i", 1), ("j", 0)]) == "c * 64 + i"
    assert index([("c", 0)]) == "0"
    assert index([("c", 2)], 5) == "c * 2 + 5"
