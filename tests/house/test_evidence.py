"""docs/evidence.md against the conditions and the command that it describes."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from reference_tables import conditions, fill
from slimq.core.conditions.catalogue import CONDITIONS, KINDS, parse_condition
from slimq.core.robustness import CONDITION_MARGIN, MAX_OWN_LOSS
from slimq.core.statistics import MARGIN


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "evidence.md").read_text(encoding="utf-8")


def slimq_lines(page: str) -> list[list[str]]:
    blocks = re.findall(r"^```bash\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line) for line in "".join(blocks).splitlines()]
    return [arguments for command, *arguments in lines if command == "slimq"]


def test_the_table_is_that_of_the_conditions(page: str) -> None:
    remedy = "run `python tests/support/reference_tables.py`"
    assert fill(page, "conditions", conditions()) == page, remedy


def test_the_table_has_the_standard_strengths_and_limits() -> None:
    rows = {line.split("`")[1]: line for line in conditions().splitlines()[2:]}
    assert list(rows) == list(CONDITIONS)
    assert rows["noise"].endswith("| 4 | 0.01 | 255 |")
    assert rows["held"].endswith("| n/a | 0.1 | 1 |")
    assert "| observations arrive *s* steps late | whole steps | 1 | 1 | 1,000 |" in rows["delayed"]
    for name, row in CONDITIONS.items():
        cells = [cell.strip() for cell in rows[name].strip("|").split("|")]
        for kind, cell in zip(KINDS, cells[3:5], strict=True):
            if kind in row.standard:
                assert parse_condition(f"{name}={cell}", kind).strength == row.standard[kind]
            else:
                assert cell in ("–", "n/a")


def test_every_condition_has_a_reason(page: str) -> None:
    reasons = page.split("### Why these")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", reasons, flags=re.MULTILINE)) == set(CONDITIONS)


def test_the_margins_are_those_of_the_code(page: str) -> None:
    text = " ".join(page.split())
    assert f"**The margin is {CONDITION_MARGIN * 100:.0f} %**" in text
    assert f"is at least −{MARGIN * 100:.0f} % of what" in text
    assert MAX_OWN_LOSS == 0.5
    assert "has lost more than half are reported and decide nothing" in text


def test_every_command_is_valid(page: str) -> None:
    lines = slimq_lines(page)
    assert len(lines) == 7
    for name, *arguments in lines:
        command: Any = get_command(importlib.import_module(f"slimq.cli.{name}").app)
        context = command.make_context(name, arguments, resilient_parsing=False)
        if "--conditions" in arguments:
            assert context.params["conditions"]
