"""docs/results.md says of every aim what the reports say, and which aims are missed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from slimq.core.repository import Repository
from slimq.evaluation.comparison import ComparisonRow, compare_variants

ROOT = Path(__file__).parents[2]
REPOSITORY = Repository(ROOT / "policies")
DOCUMENT = (ROOT / "docs/results.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Aim:
    """What a variant is to reach; None where nothing is asked.

    Attributes:
        variant: its name.
        smaller: how many times smaller than the full policy.
        most_bytes: on disk.
        most_parameters: weights and biases.
        alone: how many times faster at batch 1, alone.
        interleaved: the same, in turn with all others.
        non_inferior: whether it must keep the return.
    """

    variant: str
    smaller: float | None = None
    most_bytes: int | None = None
    most_parameters: int | None = None
    alone: float | None = None
    interleaved: float | None = None
    non_inferior: bool = True

    def missed(self, row: ComparisonRow) -> list[str]:
        """What falls short, in the words of the document."""
        speed = {x.mode: x.faster or 0.0 for x in row.latency if x.batch == 1}
        smaller = row.smaller or 0.0
        checks = {
            "bytes": smaller >= (self.smaller or 0.0)
            and row.bytes <= (self.most_bytes or row.bytes),
            "parameters": row.parameters <= (self.most_parameters or row.parameters),
            "alone": speed.get("alone", 0.0) >= (self.alone or 0.0),
            "interleaved": speed.get("interleaved", 0.0) >= (self.interleaved or 0.0),
            "return": not self.non_inferior
            or (row.difference is not None and row.difference.non_inferior),
        }
        return [name for name, holds in checks.items() if not holds]


AIMS = [
    Aim("int8", smaller=3.9, alone=1.7),
    Aim("int8-percentile", smaller=3.9, alone=1.7),
    Aim("int8-kl", smaller=3.9, alone=1.7),
    Aim("qat-int8", smaller=3.9, alone=1.7),
    Aim("int4-blocks", smaller=5.0, alone=1.0),
    Aim("qat-int4", smaller=5.0, alone=1.0),
    Aim("int4-linear", smaller=7.5),
    Aim("int4-log", smaller=7.5),
    Aim("int4-kmeans", smaller=7.5),
    Aim("deep-compression", most_bytes=138_000),
    Aim("pruned-l1", smaller=8.0),
    Aim("pruned-taylor", smaller=8.0),
    Aim("pruned-obd", smaller=8.0),
    Aim("pruned-slimming", smaller=8.0),
    Aim("dense-control", smaller=8.0, non_inferior=False),
    Aim("low-rank", smaller=8.0),
    Aim("tucker", smaller=8.0),
    Aim("mobilenet"),
    Aim("shufflenet"),
    Aim("fastest", most_parameters=61_954, alone=7.0, interleaved=13.0),
    Aim("tiny", most_bytes=16_900),
]


@cache
def rows() -> dict[str, ComparisonRow]:
    return {row.variant: row for row in compare_variants(REPOSITORY, "pong").rows}


@pytest.mark.parametrize("aim", AIMS, ids=lambda aim: aim.variant)
def test_the_document_says_of_an_aim_what_the_report_says(aim: Aim) -> None:
    row = rows().get(aim.variant)
    line = next(x for x in DOCUMENT.splitlines() if x.startswith(f"| `{aim.variant}` |"))
    verdict = line.rsplit("|", 2)[1].strip()
    if row is None:
        assert verdict == "not shipped"
        return
    missed = aim.missed(row)
    assert verdict == ("holds" if not missed else f"short: {', '.join(missed)}")


def test_every_variant_that_is_shipped_is_in_the_document() -> None:
    for policy in REPOSITORY.policies():
        for variant in REPOSITORY.variants(policy):
            assert f"`{variant}`" in DOCUMENT, f"{policy}/{variant}"


def test_cartpole_is_played_to_the_end_within_a_kilobyte() -> None:
    report = REPOSITORY.report("cartpole", "micro")
    assert report is not None
    assert report.bytes <= 1_000
    assert set(report.returns) == {500.0}
