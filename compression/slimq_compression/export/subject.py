"""What is exported: a variant with its policy, its evidence and its recorded states."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from slimq.core.calibration import CalibrationSet
from slimq.core.manifest import PolicyManifest, VariantManifest, is_stale
from slimq.core.report import EvaluationReport
from slimq.core.repository import Repository


@dataclass(frozen=True)
class Subject:
    """A variant as it is in the repository.

    Attributes:
        content: the ONNX model, uncompressed.
        calibration: recorded states of the policy; None if it has none.
    """

    policy: PolicyManifest
    variant: VariantManifest
    report: EvaluationReport | None
    content: bytes
    calibration: CalibrationSet | None

    @property
    def name(self) -> str:
        """Policy and variant, as errors and comments name them."""
        return f"{self.policy.name}/{self.variant.name}"

    def model(self) -> onnx.ModelProto:
        """The parsed model."""
        return onnx.load_from_string(self.content)


def read_subject(repository: Repository, policy: str, variant: str) -> Subject:
    """Reads a variant and all that an export says about it.

    Raises:
        NotFoundError: there is no such policy or variant.
        RepositoryError: a file is missing, invalid or tampered with.
    """
    manifest = repository.policy(policy)
    found, content = repository.read_model(policy, variant)
    report = repository.report(policy, variant)
    return Subject(manifest, found, report, content, repository.calibration(manifest))


def evidence(subject: Subject) -> str:
    """What is known of how well the variant plays, in one or two sentences."""
    report = subject.report
    if report is None:
        text = "No evidence: this variant has not been evaluated."
    elif report.played is None:
        text = "Not proven in play: the policy has no environment."
    else:
        played = report.played
        low, high = played.interval.low, played.interval.high
        text = (
            f"Mean return {played.mean:.4g} (95 % interval {low:.4g} to {high:.4g}) over "
            f"{len(played.returns)} episodes of {played.protocol.seed_range} seeds."
        )
    if report is not None and report.fidelity is not None:
        share = f"{report.fidelity.agreement:.1%}"
        text += f" Same action as {report.baseline_variant} on {share} of states."
    if is_stale(subject.variant, subject.policy):
        text += " It was made from an earlier network of the policy than the current one."
    return text
