"""docs/results.md states for every goal whether the reports show it met."""

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
class Goal:
    """The goal for a variant; None where there is none.

    Attributes:
        variant: its name.
        smaller: how many times smaller than the full policy.
        max_bytes: size on disk.
        max_parameters: weights and biases.
        alone: speed-up at batch 1, alone.
        interleaved: the same, interleaved.
        non_inferior: whether it must be non-inferior.
    """

    variant: str
    smaller: float | None = None
    max_bytes: int | None = None
    max_parameters: int | None = None
    alone: float | None = None
    interleaved: float | None = None
    non_inferior: bool = True

    def missed(self, row: ComparisonRow) -> list[str]:
        """The criteria that are missed, in the words of the document."""
        speed = {x.mode: x.faster or 0.0 for x in row.latency if x.batch == 1}
        smaller = row.smaller or 0.0
        checks = {
            "bytes": smaller >= (self.smaller or 0.0)
            and row.bytes <= (self.max_bytes or row.bytes),
            "parameters": row.parameters <= (self.max_parameters or row.parameters),
            "alone": speed.get("alone", 0.0) >= (self.alone or 0.0),
            "interleaved": speed.get("interleaved", 0.0) >= (self.interleaved or 0.0),
            "return": not self.non_inferior
            or (row.difference is not None and row.difference.non_inferior),
        }
        return [name for name, met in checks.items() if not met]


GOALS = [
    Goal("int8", smaller=3.9, alone=1.7),
    Goal("int8-percentile", smaller=3.9, alone=1.7),
    Goal("int8-kl", smaller=3.9, alone=1.7),
    Goal("qat-int8", smaller=3.9, alone=1.7),
    Goal("int4-blocks", smaller=5.0, alone=1.0),
    Goal("qat-int4", smaller=5.0, alone=1.0),
    Goal("int4-linear", smaller=7.5),
    Goal("int4-log", smaller=7.5),
    Goal("int4-kmeans", smaller=7.5),
    Goal("deep-compression", max_bytes=138_000),
    Goal("pruned-l1", smaller=8.0),
    Goal("pruned-taylor", smaller=8.0),
    Goal("pruned-obd", smaller=8.0),
    Goal("pruned-slimming", smaller=8.0),
    Goal("dense-control", smaller=8.0, non_inferior=False),
    Goal("low-rank", smaller=8.0),
    Goal("tucker", smaller=8.0),
    Goal("mobilenet-undisturbed"),
    Goal("shufflenet-undisturbed"),
    Goal("fastest", max_parameters=61_954, alone=7.0, interleaved=13.0),
    Goal("tiny", max_bytes=16_900),
]


@cache
def rows() -> dict[str, ComparisonRow]:
    return {row.variant: row for row in compare_variants(REPOSITORY, "pong").rows}


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.variant)
def test_the_document_agrees_with_the_report(goal: Goal) -> None:
    row = rows().get(goal.variant)
    line = next(x for x in DOCUMENT.splitlines() if x.startswith(f"| `{goal.variant}` |"))
    verdict = line.rsplit("|", 2)[1].strip()
    if row is None:
        assert verdict == "not shipped"
        return
    missed = goal.missed(row)
    assert verdict == ("met" if not missed else f"missed: {', '.join(missed)}")


def test_every_shipped_variant_is_in_the_document() -> None:
    for policy in ("cartpole", "pong"):
        for variant in REPOSITORY.variants(policy):
            assert f"`{variant}`" in DOCUMENT, f"{policy}/{variant}"


def test_cartpole_is_played_to_the_end_within_a_kilobyte() -> None:
    report = REPOSITORY.report("cartpole", "micro")
    assert report is not None
    assert report.bytes <= 1_000
    assert set(report.returns) == {500.0}
