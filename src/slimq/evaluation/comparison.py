"""Compares a policy's variants; everything that relates two reports is computed here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from slimq.core.errors import InvalidInputError, SlimqError
from slimq.core.manifest import PolicyManifest, VariantManifest, is_stale
from slimq.core.report import EvaluationProtocol, EvaluationReport, Fidelity, Interval
from slimq.core.repository import Repository
from slimq.core.robustness import Robustness, judge_robustness
from slimq.core.statistics import PairedDifference, paired_difference
from slimq.evaluation.latency import BATCHES, latency_ratio
from slimq.evaluation.protocol import other_versions


@dataclass(frozen=True)
class LatencyRow:
    """Median time of one call in µs, and the speed-up over the baseline in the same run."""

    mode: str
    batch: int
    p50_us: float
    faster: float | None


@dataclass(frozen=True)
class ComparisonRow:
    """One variant; a field is None if it was not measured on the current model.

    Attributes:
        smaller: the baseline's size divided by this variant's.
        difference: difference in return from the baseline, paired by seed.
        robustness: its differences under conditions.
        notes: what is missing, and why.
        stale: whether it was made from a different checkpoint than the policy's current one.
    """

    variant: str
    bytes: int
    smaller: float | None
    parameters: int
    nonzero_parameters: int
    macs: int
    mean: float | None
    interval: Interval | None
    iqm: float | None
    distinct_trajectories: int | None
    difference: PairedDifference | None
    fidelity: Fidelity | None
    latency: tuple[LatencyRow, ...]
    notes: tuple[str, ...]
    stale: bool = False
    robustness: Robustness | None = None

    def find_latency(self, mode: str, batch: int) -> LatencyRow | None:
        """The latency for a mode and batch size; None if it was not measured."""
        return next((row for row in self.latency if (row.mode, row.batch) == (mode, batch)), None)


@dataclass(frozen=True)
class Comparison:
    """All variants of a policy: the baseline first, then the others from largest to smallest.

    Attributes:
        random_mean: mean return of random actions; None without an environment.
        failed: variants that could not be read, with the reason.
        proven_in_play: whether the policy has an environment, so that returns can be measured.
        recorded_states: number of states on which fidelity was measured, without an environment.
    """

    policy: str
    baseline: str
    random_mean: float | None
    protocol: EvaluationProtocol | None
    processor: str | None
    rows: tuple[ComparisonRow, ...]
    failed: dict[str, str]
    proven_in_play: bool = True
    recorded_states: int | None = None

    @property
    def evidence(self) -> str | None:
        """The evidence in place of returns, in one line; None if the policy has an environment."""
        if self.proven_in_play:
            return None
        states = f"on {self.recorded_states:,} recorded states" if self.recorded_states else "only"
        return f"not proven in play: no environment; agreement and regret {states}"


def compare_variants(repository: Repository, policy: str) -> Comparison:
    """Reads the manifests and reports of all variants and compares them with the baseline.

    Raises:
        NotFoundError: there is no such policy.
        RepositoryError: the policy's manifest is invalid.
    """
    manifest = repository.policy(policy)
    variants: dict[str, VariantManifest] = {}
    reports: dict[str, EvaluationReport] = {}
    failed: dict[str, str] = {}
    notes: dict[str, list[str]] = {}
    for name in repository.variants(policy):
        try:
            variants[name] = repository.variant(policy, name)
        except SlimqError as error:
            failed[name] = str(error)
            continue
        report, note = _read_report(repository, manifest, variants[name])
        notes[name] = [note] if note else []
        if is_stale(variants[name], manifest):
            command = f"slimq compress {policy} {name}"
            notes[name].append(f"made from another checkpoint than the policy's: run {command}")
        if report:
            reports[name] = report
    baseline = manifest.baseline_variant
    ordered = sorted(variants.values(), key=lambda v: (v.name != baseline, -v.model.bytes, v.name))
    full = reports.get(baseline)
    return Comparison(
        policy=policy,
        baseline=baseline,
        random_mean=_random_mean(manifest),
        protocol=full.protocol if full else None,
        processor=full.latency.processor if full and full.latency else None,
        rows=tuple(
            replace(
                _row(v, reports.get(v.name), variants.get(baseline), full, manifest, notes[v.name]),
                stale=is_stale(v, manifest),
            )
            for v in ordered
        ),
        failed=failed,
        proven_in_play=manifest.proven_in_play,
        recorded_states=_recorded_states(reports.values()),
    )


def _random_mean(policy: PolicyManifest) -> float | None:
    return None if policy.random_policy is None else policy.random_policy.mean


def _recorded_states(reports: Iterable[EvaluationReport]) -> int | None:
    """The number of states in reports of policies that were not played."""
    found = (report.fidelity.states for report in reports if report.fidelity and not report.played)
    return next(found, None)


def _read_report(
    repository: Repository, policy: PolicyManifest, variant: VariantManifest
) -> tuple[EvaluationReport | None, str | None]:
    command = f"run slimq evaluate {policy.name}"
    try:
        report = repository.report(policy.name, variant.name)
    except SlimqError as error:
        return None, str(error)
    if report is None:
        return None, f"not evaluated: {command}"
    if report.model_sha256 != variant.model.sha256:
        return None, f"its report is for another model: {command}"
    if policy.proven_in_play and report.played is None:
        return None, f"its report is from recorded states, not from play: {command}"
    if not policy.proven_in_play and report.played is not None:
        return None, f"its report is from an environment that the policy no longer has: {command}"
    return report, None


def _row(
    variant: VariantManifest,
    report: EvaluationReport | None,
    baseline: VariantManifest | None,
    full: EvaluationReport | None,
    policy: PolicyManifest,
    notes: list[str],
) -> ComparisonRow:
    random_mean = _random_mean(policy)
    difference: PairedDifference | None = None
    robustness: Robustness | None = None
    fidelity = report.fidelity if report else None
    if baseline and _parents_differ(variant, baseline):
        fidelity = None
        notes = [*notes, f"not compared: {baseline.name} was made from another checkpoint"]
    elif report and report.played and full and random_mean is None:
        notes = [*notes, "the return of random play, the zero of return ratios, is not known"]
    elif report and report.played and full and random_mean is not None:
        try:
            difference = paired_difference(report, full, random_mean)
            robustness = judge_robustness(report, full, policy.observation, random_mean, difference)
        except InvalidInputError as error:
            notes = [*notes, str(error)]
        if differing := other_versions(report.versions, full.versions):
            note = f"played with another version of {', '.join(differing)} than {full.variant}"
            notes = [*notes, f"{note}: evaluate both again"]
    if report and fidelity and baseline and report.baseline_sha256 != baseline.model.sha256:
        fidelity = None
        notes = [*notes, "its agreement refers to another baseline: evaluate it again"]
    size = variant.model.bytes
    return ComparisonRow(
        variant=variant.name,
        bytes=size,
        smaller=baseline.model.bytes / size if baseline and size else None,
        parameters=variant.parameters,
        nonzero_parameters=variant.nonzero_parameters,
        macs=variant.macs,
        mean=report.mean if report else None,
        interval=report.interval if report else None,
        iqm=report.iqm if report else None,
        distinct_trajectories=report.distinct_trajectories if report else None,
        difference=difference,
        robustness=robustness,
        fidelity=fidelity,
        latency=_latency(report, full),
        notes=tuple(notes),
    )


def _parents_differ(variant: VariantManifest, baseline: VariantManifest) -> bool:
    """Whether the two are known to come from different checkpoints."""
    parents = {variant.parent, baseline.parent}
    return len(parents) == 2 and None not in parents


def _latency(
    report: EvaluationReport | None, full: EvaluationReport | None
) -> tuple[LatencyRow, ...]:
    if report is None or report.latency is None:
        return ()
    baseline = full.latency if full else None
    return tuple(
        LatencyRow(
            m.mode, m.batch, m.p50_us, latency_ratio(report.latency, baseline, m.mode, m.batch)
        )
        for m in report.latency.measurements
        if m.batch in BATCHES
    )
