"""Reports of exports, written next to their files: the part that all share, and the report of C."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from slimq import __version__
from slimq_compression.export.subject import Subject, evidence


@dataclass(frozen=True)
class ExportReport:
    """The variant that is exported, and its target.

    Attributes:
        target: as `--target` names it.
        policy: the policy's name.
        variant: the variant's name.
        model_sha256: of the model in the repository.
        slimq: version that made the export.
        evidence: what is known of the variant's play, in a sentence.
        macs: multiply-accumulates of one observation.
    """

    target: str
    policy: str
    variant: str
    model_sha256: str
    slimq: str
    evidence: str
    macs: int


def heading(target: str, subject: Subject) -> dict[str, Any]:
    """The fields of an `ExportReport`."""
    return {
        "target": target,
        "policy": subject.policy.name,
        "variant": subject.variant.name,
        "model_sha256": subject.variant.model.sha256,
        "slimq": __version__,
        "evidence": evidence(subject),
        "macs": subject.variant.macs,
    }


@dataclass(frozen=True)
class Flash:
    """Code and constants.

    Attributes:
        bytes: linked with the functions of libraries that they call; an upper estimate if there was
            no compiler.
        constants: of these, weights, codes, tables and scales.
        cpu: the core.
        measured: whether a compiler made it.
        compiler: its version line.
        flags: its options.
    """

    bytes: int
    constants: int
    cpu: str
    measured: bool
    compiler: str | None = None
    flags: str | None = None


@dataclass(frozen=True)
class Ram:
    """Memory at run time.

    Attributes:
        bytes: all of it.
        state: the structure that the caller provides: frames and intermediate results.
        frame: the newest frame or observation, which the caller also holds.
        stack: deepest chain of the generated functions, as the compiler states it; an estimate if
            there was none. Functions of libraries are not in it.
        libraries: variables of functions of libraries, such as those of `<math.h>`.
    """

    bytes: int
    state: int
    frame: int
    stack: int
    libraries: int


@dataclass(frozen=True)
class Agreement:
    """The compiled C against ONNX Runtime, on recorded states.

    Attributes:
        states: number of them.
        same_actions: share with the same action.
        ties: states where ONNX Runtime's two best Q-values are within twice the largest difference.
        same_actions_without_ties: the share among the others.
        largest_difference: of a Q-value.
        q_range: largest minus smallest Q-value.
        relative: largest difference by range.
    """

    states: int
    same_actions: float
    ties: int
    same_actions_without_ties: float
    largest_difference: float
    q_range: float
    relative: float


@dataclass(frozen=True)
class CReport(ExportReport):
    """The report of an export to C.

    Attributes:
        vectors: golden vectors in `golden.bin`.
        agreement: None without a compiler for this machine, or without recorded states.
    """

    flash: Flash
    ram: Ram
    vectors: int
    agreement: Agreement | None


def to_json(report: Any) -> str:
    """A report as indented JSON."""
    return json.dumps(dataclasses.asdict(report), indent=2, ensure_ascii=False) + "\n"
