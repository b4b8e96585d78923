"""Exports a variant as one self-describing ONNX file.

The file is the uncompressed model followed by the metadata properties `slimq.*`, which
`slimq.core.model_file.description` defines. Its graph is byte for byte that of the variant.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slimq.core.atomic import write_atomically
from slimq.core.errors import CheckFailedError
from slimq.core.local.policy import LocalPolicy
from slimq.core.model_file.described import DescribedModel, add_description
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.repository import Repository
from slimq_compression.export.options import Options
from slimq_compression.export.report import ExportReport, heading
from slimq_compression.export.subject import Subject

BATCH = 64
"""States compared at once."""


@dataclass(frozen=True)
class OnnxReport(ExportReport):
    """The report of an export to ONNX.

    Attributes:
        file: name of the ONNX file.
        bytes: size of the file.
        sha256: SHA-256 of the file.
        description_bytes: bytes of the file that describe the model.
        stored_bytes: size of the model in the repository, which may be compressed.
        opsets: opset version of each domain; the empty name is ONNX's own.
        states: number of recorded states on which the file, loaded from its description alone,
            returned bit-identical Q-values to the variant; 0 if the policy has none.
    """

    file: str
    bytes: int
    sha256: str
    description_bytes: int
    stored_bytes: int
    opsets: dict[str, int]
    states: int


def export_onnx(
    repository: Repository,  # noqa: ARG001 - every target takes it
    subject: Subject,
    folder: Path,
    options: Options,  # noqa: ARG001
) -> OnnxReport:
    """Writes the file into an empty folder.

    Raises:
        RepositoryError: the model does not load, or does not fit the policy.
        CheckFailedError: loaded from its description alone, the file returns different Q-values.
    """
    made = add_description(
        subject.policy, subject.variant, subject.content, subject.report, subject.judgement
    )
    states = _check(subject, made)
    write_atomically(folder / made.file_name, made.content)
    return OnnxReport(
        **heading("onnx", subject),
        file=made.file_name,
        bytes=len(made.content),
        sha256=hashlib.sha256(made.content).hexdigest(),
        description_bytes=len(made.content) - made.description.hashes.model_bytes,
        stored_bytes=subject.variant.model.bytes,
        opsets={one.domain: one.version for one in subject.model().opset_import},
        states=states,
    )


def describe_onnx(report: OnnxReport, output: Path) -> list[str]:
    """Formats the report for the command line."""
    domains = ", ".join(name or "ai.onnx" for name in report.opsets)
    lines = [
        f"{report.policy}/{report.variant} as {report.target} in {output / report.file}",
        f"  file   {report.bytes:>9,} bytes, {report.description_bytes:,} of them its description",
        f"  work   {report.macs:>9,} multiply-accumulates per action, with operators of {domains}",
    ]
    if report.states:
        lines.append(f"  same Q-values as the variant, to the bit, on {report.states:,} states")
    else:
        lines.append("  not compared with the variant: the policy has no recorded states")
    return [*lines, f"  {report.evidence}"]


def _check(subject: Subject, made: DescribedModel) -> int:
    """Compares the file with the variant on recorded states; returns their number."""
    layout, actions = subject.policy.observation, len(subject.policy.actions)
    local = LocalPolicy(made.content, subject.name)
    if subject.calibration is None:
        return 0
    expected = OnnxPolicy(subject.content, layout, actions, subject.name)
    observations = subject.calibration.observations(layout)
    for start in range(0, len(observations), BATCH):
        batch = observations[start : start + BATCH]
        if not np.array_equal(local.q_values(batch), expected(batch)):
            raise CheckFailedError(
                f"{subject.name}: the exported file returns different Q-values from the variant on "
                f"states {start} to {start + len(batch) - 1}"
            )
    return len(observations)
