"""What is known of each variant beside what it does here: its bytes, and what was proven of it.

These are lines of the text of `/metrics` that come from the repository when it is scraped, not from
series: every worker knows them, they cost requests nothing, and those of a variant that has gone or
was never evaluated are not there, where a series could only be 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from slimq.core.errors import SlimqError
from slimq.core.manifest import PolicyManifest, VariantManifest
from slimq.core.report import EvaluationReport
from slimq.core.repository import Repository
from slimq.core.stamp import FileStamp
from slimq_service.metrics.text_format import escape
from slimq_service.variants.catalogue import Catalogue
from slimq_service.variants.snapshot import Key

FAMILIES = {
    "slimq_policy_random_return": "Mean return of random actions, the zero of what a variant keeps",
    "slimq_variant_info": "1, with the precision of a variant and the sha256 of its stored model",
    "slimq_variant_baseline": "1 for the full variant that a policy's others are held to, else 0",
    "slimq_variant_default": "1 for the variant that answers where none is named, else 0",
    "slimq_variant_bytes": "Bytes of the model on disk, everything included",
    "slimq_variant_parameters": "Weights of the model",
    "slimq_variant_macs": "Multiply-accumulates for one observation",
    "slimq_variant_return": "Mean return over held-out episodes, of evaluated variants",
    "slimq_variant_return_low": "Lower end of the 95 % interval of that mean",
    "slimq_variant_return_high": "Upper end of the same interval",
    "slimq_variant_agreement_ratio": "Share of held-out states with the baseline's greedy action",
}
"""Names and what they say; all are gauges."""


@dataclass(frozen=True)
class _Proof:
    """What a report says, as far as it is shown."""

    mean: float
    low: float
    high: float
    agreement: float | None

    @classmethod
    def of(cls, report: EvaluationReport) -> _Proof:
        agreement = report.fidelity.agreement if report.fidelity is not None else None
        return cls(report.mean, report.interval.low, report.interval.high, agreement)


@dataclass(frozen=True)
class _Rows:
    """The lines of one variant, and what they were written from."""

    policy: PolicyManifest
    variant: VariantManifest
    lines: list[tuple[str, str]]
    proven: bool

    @property
    def report(self) -> tuple[str, str] | None:
        """By what its proof is found, None where it has no report."""
        return _proof_key(self.variant)

    def tell_of(self, policy: PolicyManifest, variant: VariantManifest) -> bool:
        """Whether they are the lines of these manifests, with all that can be known."""
        final = self.proven or variant.report is None
        return final and self.policy is policy and self.variant is variant


class Facts:
    """Writes the lines."""

    def __init__(self, catalogue: Catalogue) -> None:
        """Reads nothing yet.

        Args:
            catalogue: the latest look at the repository.
        """
        self._catalogue = catalogue
        self._known: dict[Key, _Rows] = {}
        self._proofs: dict[tuple[str, str], _Proof] = {}
        self._broken: dict[tuple[str, str], FileStamp | None] = {}

    def render(self) -> str:
        """The text, with a line break at its end; in any thread, one at a time."""
        lines: dict[str, list[str]] = {name: [] for name in FAMILIES}
        scan = self._catalogue.scan
        for policy, scanned in scan.policies.items():
            if scanned.manifest is not None:
                value = scanned.manifest.random_policy.mean
                line = f'slimq_policy_random_return{{policy="{policy}"}} {value!r}'
                lines["slimq_policy_random_return"].append(line)
        known, self._known = self._known, {}
        for key, entry in scan.entries():
            policy_manifest = scan.policies[key[0]].manifest
            if policy_manifest is None or entry.manifest is None:
                continue
            rows = known.get(key)
            if rows is None or not rows.tell_of(policy_manifest, entry.manifest):
                rows = self._write(key, policy_manifest, entry.manifest)
            self._known[key] = rows
            for name, line in rows.lines:
                lines[name].append(line)
        seen = {rows.report for rows in self._known.values()}
        self._proofs = {key: proof for key, proof in self._proofs.items() if key in seen}
        self._broken = {key: stamp for key, stamp in self._broken.items() if key in seen}
        text = []
        for name, rows_of_name in lines.items():
            if rows_of_name:
                text += [f"# HELP {name} {FAMILIES[name]}", f"# TYPE {name} gauge", *rows_of_name]
        return "\n".join(text) + "\n" if text else ""

    def _write(self, key: Key, policy: PolicyManifest, variant: VariantManifest) -> _Rows:
        labels = f'policy="{key[0]}",variant="{key[1]}"'
        proof = self._proof(self._catalogue.repository, variant)
        lines = [
            (name, f"{name}{{{labels}{more}}} {float(value)!r}")
            for name, more, value in _facts(policy, variant, proof)
        ]
        return _Rows(policy, variant, lines, proven=proof is not None)

    def _proof(self, repository: Repository, variant: VariantManifest) -> _Proof | None:
        """What was proven of this very model; None where nothing was, or cannot be read now.

        A broken report is not read and hashed again before its file is another.
        """
        key = _proof_key(variant)
        if variant.report is None or key is None:
            return None
        known = self._proofs.get(key)
        if known is not None:
            return known
        stamp = repository.file_stamp(variant, variant.report)
        if key in self._broken and self._broken[key] == stamp:
            return None
        try:
            report = repository.report(variant.policy, variant.name)
        except SlimqError:  # whoever asks for the report is told why
            self._broken[key] = stamp
            return None
        if report is None or report.model_sha256 != variant.model.sha256:
            return None  # published meanwhile: the next look at the repository has it
        proof = self._proofs[key] = _Proof.of(report)
        return proof


def _proof_key(variant: VariantManifest) -> tuple[str, str] | None:
    """The sha256 of the model and of its report."""
    report = variant.report
    return None if report is None else (variant.model.sha256, report.sha256)


def _facts(
    policy: PolicyManifest, variant: VariantManifest, proof: _Proof | None
) -> Iterator[tuple[str, str, float]]:
    """Name, further labels and value of every line of a variant."""
    precision, sha256 = escape(variant.precision), variant.model.sha256[:12]
    yield "slimq_variant_info", f',precision="{precision}",sha256="{sha256}"', 1
    yield "slimq_variant_baseline", "", variant.name == policy.baseline_variant
    yield "slimq_variant_default", "", variant.name == policy.default_variant
    yield "slimq_variant_bytes", "", variant.model.bytes
    yield "slimq_variant_parameters", "", variant.parameters
    yield "slimq_variant_macs", "", variant.macs
    if proof is None:
        return
    yield "slimq_variant_return", "", proof.mean
    yield "slimq_variant_return_low", "", proof.low
    yield "slimq_variant_return_high", "", proof.high
    if proof.agreement is not None:
        yield "slimq_variant_agreement_ratio", "", proof.agreement
