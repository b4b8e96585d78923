"""The smallest proven variant of each policy, and why there is none smaller, for `suite.py`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pages import add_page_options, settle
from slimq.core.manifest import PolicyManifest, VariantManifest
from slimq.core.repository import Repository
from slimq.core.statistics import MARGIN
from slimq.evaluation.comparison import Comparison, ComparisonRow, compare_variants
from slimq.evaluation.recommendation import Criteria, Recommendation, recommend

ROOT = Path(__file__).parents[1]
GOAL = 20
"""Goal for the full policy's size divided by the variant's."""


@dataclass(frozen=True)
class Entry:
    """A policy with the results of its reports.

    Attributes:
        variants: manifests by name, of the variants that can be read.
        choice: the smallest variant that is non-inferior undisturbed; None unless it is smaller
            than the full one.
        robust: the smallest that is also non-inferior under the standard conditions; None unless it
            is smaller than the full one, or if this is unknown or no condition decides.
    """

    manifest: PolicyManifest
    comparison: Comparison
    recommendation: Recommendation
    variants: Mapping[str, VariantManifest]
    choice: ComparisonRow | None
    robust: ComparisonRow | None

    @property
    def full(self) -> ComparisonRow | None:
        """The full policy; None if it was not published."""
        return self.find(self.comparison.baseline)

    def find(self, variant: str) -> ComparisonRow | None:
        """A variant's row; None if there is none."""
        return next((row for row in self.comparison.rows if row.variant == variant), None)


def read_entry(repository: Repository, policy: str) -> Entry:
    """Compares a policy's variants and chooses the smallest.

    Raises:
        RepositoryError: the policy's manifest is invalid.
    """
    manifest, comparison = repository.policy(policy), compare_variants(repository, policy)
    agreement = None if comparison.proven_in_play else 1 - MARGIN
    undisturbed = Criteria(goal="bytes", min_agreement=agreement, robust=False)
    found = recommend(comparison, undisturbed)
    robust = None
    if comparison.proven_in_play:
        robust = _smaller(recommend(comparison, replace(undisturbed, robust=True)), comparison)
    if robust and not (robust.robustness and robust.robustness.robust):
        robust = None  # without a deciding condition, only undisturbed play is required
    variants = {row.variant: repository.variant(policy, row.variant) for row in comparison.rows}
    choice = _smaller(found, comparison)
    return Entry(manifest, comparison, found, variants, choice, robust)


def _smaller(found: Recommendation, comparison: Comparison) -> ComparisonRow | None:
    """The row of the recommended variant; None unless it is smaller than the full one."""
    rows = {row.variant: row for row in comparison.rows}
    full = rows.get(comparison.baseline)
    choice = rows[found.choice.variant] if found.choice else None
    return choice if choice and full and choice.bytes < full.bytes else None


def bounds(entry: Entry) -> str:
    """The reason why there is no smaller variant: the nearest one's loss, or missing evidence."""
    policy, full = entry.manifest.name, entry.full
    if full is None:
        return f"there is no `{entry.comparison.baseline}`: run `slimq shrink {policy}`"
    refused = refusals(entry, full.bytes)
    if not refused:
        return f"nothing smaller was published: run `slimq shrink {policy}`"
    measured = [found for found in refused if found[1] is not None]
    if not measured:
        return "; ".join(dict.fromkeys(reason for *_, reason in refused))
    row, _, reason = min(measured, key=lambda found: found[1] or 0.0)
    return f"nearest is `{row.variant}` (1/{row.smaller or 1:.0f}): {reason}"


def refusals(entry: Entry, limit: int) -> list[tuple[ComparisonRow, float | None, str]]:
    """Unproven variants with fewer bytes than a limit, largest first.

    Returns:
        The row, the share by which it misses its criterion (None if evidence is missing), and the
        reason.
    """
    found = []
    for rejection in entry.recommendation.rejected:
        row = entry.find(rejection.variant)
        if row is not None and row.bytes < limit:
            known = row.difference is not None and not row.difference.non_inferior
            known = known and rejection.excess is not None
            reason = loss(row) if known else "; ".join(rejection.reasons)
            found.append((row, rejection.excess, reason))
    return sorted(found, key=lambda one: -one[0].bytes)


def loss(row: ComparisonRow) -> str:
    """A variant's loss at the lower bound, and whether the interval is only too wide."""
    difference = row.difference
    if difference is None:
        return "not compared"
    lost = f"loses {-difference.mean:.1%} on average"
    kind = "interval too wide" if difference.mean >= -difference.margin else lost
    return f"{kind}: {percent(difference.low, 1)} at {difference.episodes:,} episodes"


def notes(entry: Entry) -> Iterator[str]:
    """Yields notes on a policy's row, a line each."""
    comparison, row = entry.comparison, entry.choice
    if comparison.evidence is not None:
        yield f"{comparison.evidence}; the limit is an agreement of {1 - MARGIN:.0%}"
    for name, problem in comparison.failed.items():
        yield f"`{name}` cannot be read: {problem}"
    if entry.full is not None:
        yield from (f"`{comparison.baseline}`: {note}" for note in entry.full.notes)
    if row is None:
        return
    yield from (f"`{row.variant}`: {note}" for note in row.notes)
    smaller = [
        f"`{other.variant}` (1/{other.smaller or 1:.0f}), {reason}"
        for other, _, reason in refusals(entry, row.bytes)
    ]
    if smaller:
        yield f"smaller, but not proven: {'; '.join(smaller)}"
    elif row.smaller is not None and row.smaller < GOAL:
        yield f"above 1/{GOAL}; nothing smaller than `{row.variant}` was published"
    latency = row.find_latency("alone", 1)
    if latency is None or latency.faster is None:
        yield f"the latency of `{row.variant}` was not measured in one run with the full policy's"


def hardware_notes(entries: Sequence[Entry]) -> Iterator[str]:
    """Yields the hardware of latency measurements, and that on which variants were trained."""
    measured: dict[str, list[str]] = {}
    trained: dict[str, list[str]] = {}
    for entry in entries:
        name = f"`{entry.manifest.name}`"
        if entry.comparison.processor is not None:
            measured.setdefault(entry.comparison.processor, []).append(name)
        steps = entry.variants[entry.choice.variant].recipe.steps if entry.choice else ()
        for hardware in dict.fromkeys(step.hardware for step in steps if step.hardware):
            trained.setdefault(hardware, []).append(name)
    for processor, names in measured.items():
        yield f"latency is that of one call at batch 1, alone, on one thread: {processor}" + (
            f" ({', '.join(names)})" if len(measured) > 1 else ""
        )
    for hardware, names in trained.items():
        yield f"smallest variants trained on {hardware}: {', '.join(names)}"


def percent(value: float, digits: int) -> str:
    """Formats a difference with its sign."""
    return f"{value:+.{digits}%}".replace("-", "−")


Sections = Callable[[Sequence[Entry]], dict[str, str]]
"""Makes the generated parts of a page, by the names in their markers."""


def read_sections(policies: Path, sections: Sections) -> dict[str, str]:
    """The generated parts of a page, from a repository.

    Raises:
        RepositoryError: it cannot be listed, or a policy's manifest is invalid.
    """
    repository = Repository(policies)
    return sections([read_entry(repository, name) for name in repository.policies()])


def run_page(
    arguments: Sequence[str] | None, description: str, program: str, page: Path, sections: Sections
) -> None:
    """Runs the command of a page: prints, writes or checks its generated parts."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--policies", type=Path, default=ROOT / "policies")
    add_page_options(parser, page)
    options = parser.parse_args(arguments)
    outdated = "is not what the reports give"
    settle(options, lambda: read_sections(options.policies, sections), program, outdated)
