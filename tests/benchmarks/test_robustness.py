"""The table of docs/evidence.md: that of the shipped policies, and of made ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from pages import write_sections
from robustness import HEAD, PAGE, ROOT, difference, main, own_loss, read_sections
from slimq.core.conditions.catalogue import parse_condition
from slimq.core.report import Interval
from slimq.core.robustness import CONDITION_MARGIN, ConditionResult
from slimq.core.statistics import PairedDifference

MARKERS = "<!-- begin robustness -->\n<!-- end robustness -->\n"


def result(loss: float, mean: float, low: float, episodes: int = 100) -> ConditionResult:
    return ConditionResult(
        condition=parse_condition("sticky=0.25", "vectors"),
        standard=True,
        mean=0.0,
        interval=Interval(low=0.0, high=0.0),
        episodes=episodes,
        full_mean=0.0,
        full_loss=loss,
        difference=PairedDifference(mean, low, 0.0, CONDITION_MARGIN, episodes),
    )


def test_the_page_has_the_table_of_the_shipped_reports() -> None:
    page = PAGE.read_text(encoding="utf-8")
    remedy = "run `python benchmarks/robustness.py --write`"
    assert write_sections(page, read_sections(ROOT / "policies")) == page, remedy


def test_every_condition_of_a_policy_has_a_column() -> None:
    lines = read_sections(ROOT / "policies")["robustness"].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert {len(row) for row in rows} == {len(HEAD)}
    losses = {row[0]: row[2:-1] for row in rows if row[1] == "full policy loses"}
    assert "–" not in losses["`pong`"]
    assert losses["`cliffwalking`"][:2] == ["–", "–"]


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (result(0.1, 0.02, -0.01), "+2.0% (≥ −1.0%)"),
        (result(0.1, -0.04, -0.06), "**−4.0% (≥ −6.0%)**"),
        (result(0.6, -0.04, -0.06), "*−4.0% (≥ −6.0%)*"),
        (result(0.1, 0.02, -0.01, episodes=10), "*+2.0% (≥ −1.0%)*"),
        (None, "–"),
    ],
)
def test_a_difference_is_marked_by_what_it_decides(
    found: ConditionResult | None, shown: str
) -> None:
    assert difference(found) == shown


def test_a_loss_of_nothing_has_no_sign() -> None:
    assert own_loss(result(-1e-9, 0.0, 0.0)) == "0.0%"
    assert own_loss(result(-0.011, 0.0, 0.0)) == "−1.1%"
    assert own_loss(None) == "–"


def test_the_command_writes_and_checks(tmp_path: Path) -> None:
    page = tmp_path / "evidence.md"
    page.write_text(MARKERS, encoding="utf-8")
    options = ["--policies", str(ROOT / "policies"), "--page", str(page)]
    with pytest.raises(SystemExit, match=r"evidence\.md is not what the reports give"):
        main([*options, "--check"])
    main([*options, "--write"])
    main([*options, "--check"])
    assert "| `pong` | full policy loses |" in page.read_text(encoding="utf-8")
