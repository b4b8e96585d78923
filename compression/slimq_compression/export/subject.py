"""The subject of an export: a variant with its policy, its evidence and its recorded states."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from slimq.core.calibration import CalibrationSet
from slimq.core.evidence import Judgement, describe_evidence, read_judgement
from slimq.core.manifest import PolicyManifest, VariantManifest
from slimq.core.report import EvaluationReport
from slimq.core.repository import Repository


@dataclass(frozen=True)
class Subject:
    """A variant as stored in the repository.

    Attributes:
        report: the variant's report; None if it has not been evaluated.
        judgement: its comparison with the full policy; None if it has never played.
        content: the ONNX model, uncompressed.
        calibration: recorded states of the policy; None if it has none.
    """

    policy: PolicyManifest
    variant: VariantManifest
    report: EvaluationReport | None
    judgement: Judgement | None
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
    """Reads a variant and everything that an export states about it.

    Raises:
        NotFoundError: there is no such policy or variant.
        RepositoryError: a file is missing, invalid or tampered with.
    """
    manifest = repository.policy(policy)
    found, content = repository.read_model(policy, variant)
    report = repository.report_of(found)
    judgement = read_judgement(repository, manifest, found, report)
    states = repository.calibration(manifest)
    return Subject(manifest, found, report, judgement, content, states)


def evidence(subject: Subject) -> str:
    """Describes how well the variant plays, and under which conditions."""
    return describe_evidence(subject.policy, subject.variant, subject.report, subject.judgement)
