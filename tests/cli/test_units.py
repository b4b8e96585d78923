"""Durations and sizes as they are typed."""

from __future__ import annotations

import pytest

from slimq.cli.units import parse_bytes, parse_duration
from slimq.core.errors import InvalidInputError


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("0.2ms", 200.0),
        ("150us", 150.0),
        ("150 µs", 150.0),
        ("150μs", 150.0),
        ("1s", 1e6),
        ("75", 75.0),
        (".5MS", 500.0),
    ],
)
def test_a_duration_is_microseconds_whatever_its_unit(text: str, microseconds: float) -> None:
    assert parse_duration(text) == pytest.approx(microseconds)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20kB", 20_000),
        ("20 KB", 20_000),
        ("1.5MB", 1_500_000),
        ("2GB", 2_000_000_000),
        ("16KiB", 16_384),
        ("2MiB", 2_097_152),
        ("20000", 20_000),
        ("20,000", 20_000),
        ("20_000B", 20_000),
    ],
)
def test_a_size_is_bytes_and_a_kilobyte_is_a_thousand(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "ms", "-1ms", "0us", "1h", "1ms2", "nan", "inf", "1e3"])
def test_an_invalid_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"--max-latency: expected .*0\.2ms") as refused:
        parse_duration(text, "--max-latency")
    assert refused.value.received == repr(text)


@pytest.mark.parametrize("text", ["", "kB", "-1", "0", "0.2", "20ms", "9" * 400])
def test_an_invalid_size_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"--max-bytes: expected .*20kB") as refused:
        parse_bytes(text, "--max-bytes")
    assert refused.value.received == repr(text)
