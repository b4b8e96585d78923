"""Writes the table of docs/evidence.md: the smallest variant of each policy under each condition.

    python benchmarks/robustness.py            prints it
    python benchmarks/robustness.py --write    replaces that of the page
    python benchmarks/robustness.py --check    exits with 1 if the page has another

All figures are those of manifests and reports below policies/; nothing is played.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import suite_entries
from slimq.core.robustness import ConditionResult
from slimq.core.text_tables import markdown_table
from slimq.evaluation.comparison import ComparisonRow
from suite_entries import ROOT, Entry, percent, run_page

PAGE = ROOT / "docs" / "evidence.md"
MISSING = "–"
VERDICTS = {True: "yes", False: "no", None: MISSING}
SLOTS = (("noise",), ("brightness", "bias"), ("lost", "held"), ("sticky",), ("delayed",))
"""Conditions by column; a policy's standard set has at most one of each column."""
HEAD = ("policy", "", *(" / ".join(f"`{name}`" for name in slot) for slot in SLOTS), "robust")
NAMES = 2
"""Number of leading columns that are text."""


def sections(entries: Sequence[Entry]) -> dict[str, str]:
    """The generated part of the page, by the name in its markers."""
    rows = [row for entry in entries for row in policy_rows(entry)]
    return {"robustness": markdown_table([HEAD, *rows], NAMES)}


def policy_rows(entry: Entry) -> Iterator[list[str]]:
    """Yields a row of the full policy's losses, and one of its smallest variant's differences."""
    policy, row = f"`{entry.manifest.name}`", entry.choice
    if row is None:
        return
    found = [result_in(row, slot) for slot in SLOTS]
    yield [policy, "full policy loses", *map(own_loss, found), ""]
    robust = VERDICTS[row.robustness.robust if row.robustness else None]
    yield ["", f"`{row.variant}` differs by", *map(difference, found), robust]


def result_in(row: ComparisonRow, slot: Sequence[str]) -> ConditionResult | None:
    """A variant's result under the standard condition of a column; None if it was not played."""
    results = row.robustness.results if row.robustness else ()
    found = (r for r in results if r.standard and r.condition.name in slot)
    return next(found, None)


def own_loss(result: ConditionResult | None) -> str:
    """The share of its gain over random play that the full policy loses under the condition."""
    if result is None or result.full_loss is None:
        return MISSING
    return f"{result.full_loss:z.1%}".replace("-", "−")


def difference(result: ConditionResult | None) -> str:
    """A variant's difference from the full policy, with its lower bound, marked by the verdict."""
    if result is None or result.difference is None:
        return MISSING
    paired = result.difference
    text = f"{percent(paired.mean, 1)} (≥ {percent(paired.low, 1)})"
    if result.non_inferior is None:
        return f"*{text}*"
    return text if result.non_inferior else f"**{text}**"


def read_sections(policies: Path) -> dict[str, str]:
    """The generated part of the page. Raises the errors of `suite_entries.read_sections`."""
    return suite_entries.read_sections(policies, sections)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints, writes or checks the table."""
    run_page(arguments, __doc__ or "", "robustness.py", PAGE, sections)


if __name__ == "__main__":
    main()
