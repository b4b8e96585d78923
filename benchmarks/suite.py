"""Writes the tables of docs/suite.md: each policy, and its smallest variant that still plays.

    python benchmarks/suite.py            prints them
    python benchmarks/suite.py --write    replaces those of the page
    python benchmarks/suite.py --check    exits with 1 if the page has others

All figures are those of manifests and reports below policies/; nothing is measured. The choice is
that of `slimq recommend --no-robust`: the fewest bytes among the variants that are non-inferior
undisturbed. Another column has the smallest that is robust, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import suite_entries
from slimq.core.environment import EnvironmentSpec
from slimq.core.manifest import PolicyManifest
from slimq.core.report import Interval
from slimq.core.text_tables import markdown_table
from slimq.evaluation.comparison import ComparisonRow
from suite_entries import GOAL, ROOT, Entry, bounds, hardware_notes, notes, percent, run_page

PAGE = ROOT / "docs" / "suite.md"
MISSING = "–"
FULL_HEAD = (
    "policy",
    "environment",
    "made by",
    "parameters",
    "bytes",
    "return of random play",
    "return",
)
SMALLEST_HEAD = (
    "policy",
    "variant",
    "technique, or why there is none",
    "bytes",
    "× smaller",
    "return of the full policy",
    "return",
    "paired, low",
    "episodes",
    "robust",
    "smallest robust",
    "agreement",
    "× faster",
    "minutes × workers",
    "tried",
)
ROBUST_COLUMN = SMALLEST_HEAD.index("smallest robust")
VERDICTS = {True: "yes", False: "no", None: MISSING}
NAMES = 3
"""Number of leading columns of both tables that are text."""
PROGRAMS = {
    "cleanrl": "CleanRL",
    "cleanrl-flax": "CleanRL (JAX)",
    "onnx": "ONNX",
    "sb3-contrib": "sb3-contrib",
    "stable-baselines3": "Stable-Baselines3",
}
"""Names of the formats that policies are imported from."""


def sections(entries: Sequence[Entry]) -> dict[str, str]:
    """The generated parts of the page, by the names in their markers."""
    smallest = markdown_table([SMALLEST_HEAD, *map(smallest_row, entries)], NAMES)
    remarks = [
        *hardware_notes(entries),
        *(f"`{entry.manifest.name}`: {text}" for entry in entries for text in notes(entry)),
    ]
    listed = "\n".join(f"- {remark}" for remark in remarks)
    return {
        "policies": markdown_table([FULL_HEAD, *map(full_row, entries)], NAMES),
        "smallest": "\n\n".join(filter(None, (summary(entries), smallest, listed))),
    }


def summary(entries: Sequence[Entry]) -> str:
    """Counts the policies with a proven smaller variant, and with one that reaches the goal."""
    proven = [entry for entry in entries if entry.choice and entry.comparison.proven_in_play]
    small = [entry for entry in proven if entry.choice and (entry.choice.smaller or 0) >= GOAL]
    robust = [entry for entry in entries if entry.robust]
    tiny = [entry for entry in robust if entry.robust and (entry.robust.smaller or 0) >= GOAL]
    return (
        f"{len(entries)} policies: {len(proven)} with a smaller variant that is non-inferior in "
        f"undisturbed play, {len(small)} of them with at most 1/{GOAL} of the full policy's bytes; "
        f"{len(robust)} with a smaller one that is robust, {len(tiny)} of them with at most "
        f"1/{GOAL}."
    )


def full_row(entry: Entry) -> list[str]:
    """The cells of a policy in the first table."""
    manifest, full = entry.manifest, entry.full
    environment = describe(manifest.environment) if manifest.environment else "none"
    random = entry.comparison.random_mean
    return [
        f"`{manifest.name}`",
        environment,
        origin(manifest),
        MISSING if full is None else f"{full.parameters:,}",
        MISSING if full is None else f"{full.bytes:,}",
        MISSING if random is None else number(random),
        returns(full),
    ]


def smallest_row(entry: Entry) -> list[str]:
    """The cells of a policy in the second table."""
    policy, row = f"`{entry.manifest.name}`", entry.choice
    if row is None:
        gap = [MISSING] * (len(SMALLEST_HEAD) - 6)
        gap[ROBUST_COLUMN - 6] = smallest_robust(entry)
        return [policy, "none", bounds(entry), MISSING, MISSING, returns(entry.full), *gap]
    latency = row.find_latency("alone", 1)
    faster = latency.faster if latency else None
    recipe = entry.variants[row.variant].recipe
    spent = recipe.search
    return [
        policy,
        f"`{row.variant}`",
        (recipe.description or recipe.name).rstrip(".").replace("|", "\\|"),
        f"{row.bytes:,}",
        MISSING if row.smaller is None else f"{row.smaller:.1f}",
        returns(entry.full),
        returns(row),
        percent(row.difference.low, 2) if row.difference else MISSING,
        f"{row.difference.episodes:,}" if row.difference else MISSING,
        VERDICTS[row.robustness.robust if row.robustness else None],
        smallest_robust(entry),
        f"{row.fidelity.agreement:.1%}" if row.fidelity else MISSING,
        MISSING if faster is None else f"{faster:.2f}",
        f"{spent.minutes:.1f} × {spent.workers}" if spent else MISSING,
        f"{spent.trials:,}" if spent else MISSING,
    ]


def smallest_robust(entry: Entry) -> str:
    """The smallest robust variant, with its share of the full one's bytes."""
    row = entry.robust
    return MISSING if row is None else f"`{row.variant}`, 1/{row.smaller or 1:.0f}"


def describe(environment: EnvironmentSpec) -> str:
    """An environment's id, with its arguments."""
    arguments = (f"{key}={value!r}" for key, value in environment.kwargs.items())
    return ", ".join([f"`{environment.id}`", *(f"`{text}`" for text in arguments)])


def origin(manifest: PolicyManifest) -> str:
    """The program that trained a policy, and how long it took if slimq did."""
    imported, training = manifest.imported, manifest.training
    if imported is not None:
        program = PROGRAMS.get(imported.format, imported.format)
        version = imported.versions.get(program, "")
        return f"{' '.join([program, version]).strip()}, {imported.algorithm}"
    if training is None:
        return MISSING
    config = f"[slimq](../configs/{manifest.name}.toml)"
    return f"{config}, {training.steps:,} steps in {training.seconds / 60:.1f} minutes"


def returns(row: ComparisonRow | None) -> str:
    """A mean return with its 95 % interval."""
    if row is None or row.mean is None:
        return MISSING
    interval = row.interval or Interval(low=row.mean, high=row.mean)
    return f"{number(row.mean)} ({number(interval.low)} to {number(interval.high)})"


def number(value: float) -> str:
    """A return to four significant digits, or as an integer from 1,000."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return text.replace("-", "−")


def read_sections(policies: Path) -> dict[str, str]:
    """The generated parts of the page. Raises the errors of `suite_entries.read_sections`."""
    return suite_entries.read_sections(policies, sections)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints, writes or checks the tables."""
    run_page(arguments, __doc__ or "", "suite.py", PAGE, sections)


if __name__ == "__main__":
    main()
