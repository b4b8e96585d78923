"""Metrics taken from manifests and reports: the size of each variant, its return and robustness.

These lines of `/metrics` are made from the repository at each scrape, and are not series: every
worker knows them, they cost requests nothing, and a variant that was removed or never evaluated has
none, whereas a series would have to be 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from slimq.core.errors import SlimqError
from slimq.core.manifest import PolicyManifest, VariantManifest
from slimq.core.report import EvaluationReport
from slimq.core.repository import Repository
from slimq.core.robustness import Robustness
from slimq.core.stamp import FileStamp
from slimq_service.metrics.text_format import escape
from slimq_service.variants.catalogue import Catalogue
from slimq_service.variants.snapshot import Key

FAMILIES = {
    "slimq_policy_proven_in_play": "1 if the policy has an environment to play in, else 0",
    "slimq_policy_random_return": "Mean return of random actions, the zero of return ratios",
    "slimq_variant_info": "1, with a variant's precision and the sha256 of its stored model",
    "slimq_variant_baseline": "1 for the baseline variant of its policy, else 0",
    "slimq_variant_default": "1 for the default variant of its policy, else 0",
    "slimq_variant_bytes": "Size of the model on disk, everything included",
    "slimq_variant_parameters": "Parameters of the model",
    "slimq_variant_macs": "Multiply-accumulate operations for one observation",
    "slimq_variant_return": "Mean return over held-out episodes, for evaluated variants",
    "slimq_variant_return_low": "Lower end of the 95 % confidence interval of the mean return",
    "slimq_variant_return_high": "Upper end of the same interval",
    "slimq_variant_agreement_ratio": "Share of held-out states with the baseline's greedy action",
    "slimq_variant_robust": "1 if non-inferior undisturbed and under every standard condition, "
    "0 if not; absent if unknown",
    "slimq_variant_condition_difference_low": "Lower bound of the difference in return from the "
    "baseline under a standard condition, as a share of what the baseline gains over random",
}
"""Names and help texts; all are gauges."""


@dataclass(frozen=True)
class _Results:
    """The results of a report that are exposed; returns are the mean and its interval's ends."""

    returns: tuple[float, float, float] | None
    agreement: float | None

    @classmethod
    def of(cls, report: EvaluationReport) -> _Results:
        agreement = report.fidelity.agreement if report.fidelity is not None else None
        played = report.played
        if played is None:
            return cls(None, agreement)
        return cls((played.mean, played.interval.low, played.interval.high), agreement)


@dataclass(frozen=True)
class _Rows:
    """The lines of one variant, and the manifests they were made from."""

    policy: PolicyManifest
    variant: VariantManifest
    robustness: Robustness | None
    lines: list[tuple[str, str]]
    has_results: bool

    @property
    def report(self) -> tuple[str, str] | None:
        """The hashes of the model and its report, None if it has no report."""
        return _report_key(self.variant)

    def are_current(
        self, policy: PolicyManifest, variant: VariantManifest, robustness: Robustness | None
    ) -> bool:
        """Whether the lines were made from these values, and are complete."""
        complete = self.has_results or variant.report is None
        same = self.policy is policy and self.variant is variant and self.robustness is robustness
        return complete and same


class RepositoryMetrics:
    """Makes the lines, and caches them until a manifest changes."""

    def __init__(self, catalogue: Catalogue) -> None:
        """Reads nothing yet.

        Args:
            catalogue: has the latest scan of the repository.
        """
        self._catalogue = catalogue
        self._known: dict[Key, _Rows] = {}
        self._results: dict[tuple[str, str], _Results] = {}
        self._broken: dict[tuple[str, str], FileStamp | None] = {}

    def render(self) -> str:
        """The text, with a final line break; in any thread, but only one at a time."""
        lines: dict[str, list[str]] = {name: [] for name in FAMILIES}
        scan = self._catalogue.scan
        for policy, scanned in scan.policies.items():
            if scanned.manifest is not None:
                for name, value in _policy_values(scanned.manifest):
                    lines[name].append(f'{name}{{policy="{policy}"}} {value!r}')
        known, self._known = self._known, {}
        for key, entry in scan.entries():
            policy_manifest = scan.policies[key[0]].manifest
            if policy_manifest is None or entry.manifest is None:
                continue
            rows, judgement = known.get(key), self._catalogue.evidence.find(*key)
            found = policy_manifest, entry.manifest, judgement.robustness if judgement else None
            if rows is None or not rows.are_current(*found):
                rows = self._write(key, *found)
            self._known[key] = rows
            for name, line in rows.lines:
                lines[name].append(line)
        seen = {rows.report for rows in self._known.values()}
        self._results = {key: found for key, found in self._results.items() if key in seen}
        self._broken = {key: stamp for key, stamp in self._broken.items() if key in seen}
        text = []
        for name, rows_of_name in lines.items():
            if rows_of_name:
                text += [f"# HELP {name} {FAMILIES[name]}", f"# TYPE {name} gauge", *rows_of_name]
        return "\n".join(text) + "\n" if text else ""

    def _write(
        self,
        key: Key,
        policy: PolicyManifest,
        variant: VariantManifest,
        robustness: Robustness | None,
    ) -> _Rows:
        labels = f'policy="{key[0]}",variant="{key[1]}"'
        results = self._read(self._catalogue.repository, variant)
        lines = [
            (name, f"{name}{{{labels}{more}}} {float(value)!r}")
            for name, more, value in (
                *_values(policy, variant, results),
                *_conditions(robustness),
            )
        ]
        return _Rows(policy, variant, robustness, lines, has_results=results is not None)

    def _read(self, repository: Repository, variant: VariantManifest) -> _Results | None:
        """The results measured with exactly this model, None if there are none or unreadable ones.

        A broken report is not read and hashed again until its file changes.
        """
        key = _report_key(variant)
        if variant.report is None or key is None:
            return None
        known = self._results.get(key)
        if known is not None:
            return known
        stamp = repository.stamps(variant.policy, [(variant.name, variant.report.path)])[0]
        if key in self._broken and self._broken[key] == stamp:
            return None
        try:
            report = repository.report(variant.policy, variant.name)
        except SlimqError:  # a request for the report returns the reason
            self._broken[key] = stamp
            return None
        if report is None or report.model_sha256 != variant.model.sha256:
            return None  # published meanwhile: the next scan will find it
        results = self._results[key] = _Results.of(report)
        return results


def _report_key(variant: VariantManifest) -> tuple[str, str] | None:
    """The sha256 of the model and of its report."""
    report = variant.report
    return None if report is None else (variant.model.sha256, report.sha256)


def _policy_values(policy: PolicyManifest) -> Iterator[tuple[str, float]]:
    """Name and value of every line of a policy."""
    yield "slimq_policy_proven_in_play", float(policy.proven_in_play)
    if policy.random_policy is not None:
        yield "slimq_policy_random_return", policy.random_policy.mean


def _values(
    policy: PolicyManifest, variant: VariantManifest, results: _Results | None
) -> Iterator[tuple[str, str, float]]:
    """Name, further labels and value of every line of a variant."""
    precision, sha256 = escape(variant.precision), variant.model.sha256[:12]
    yield "slimq_variant_info", f',precision="{precision}",sha256="{sha256}"', 1
    yield "slimq_variant_baseline", "", variant.name == policy.baseline_variant
    yield "slimq_variant_default", "", variant.name == policy.default_variant
    yield "slimq_variant_bytes", "", variant.model.bytes
    yield "slimq_variant_parameters", "", variant.parameters
    yield "slimq_variant_macs", "", variant.macs
    if results is None:
        return
    if results.returns is not None:
        for end, value in zip(("", "_low", "_high"), results.returns, strict=True):
            yield f"slimq_variant_return{end}", "", value
    if results.agreement is not None:
        yield "slimq_variant_agreement_ratio", "", results.agreement


def _conditions(robustness: Robustness | None) -> Iterator[tuple[str, str, float]]:
    """Name, further labels and value of every line about conditions that decide."""
    if robustness is None:
        return
    if robustness.robust is not None:
        yield "slimq_variant_robust", "", robustness.robust
    for found in robustness.results:
        if found.standard and found.difference is not None and found.decides:
            label = f',condition="{escape(found.condition.label)}"'
            yield "slimq_variant_condition_difference_low", label, found.difference.low
