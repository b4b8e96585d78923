"""Export reports, written next to the exported files: their common part, and that of C."""

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
        target: the name that `--target` takes.
        policy: the policy's name.
        variant: the variant's name.
        model_sha256: SHA-256 of the model in the repository.
        slimq: version of slimq that made the export.
        evidence: how well the variant is known to play, in a sentence.
        macs: multiply-accumulates per observation.
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
        bytes: size with the library functions that are linked in; an upper estimate if there was no
            compiler.
        constants: bytes of these that are weights, codes, tables and scales.
        cpu: the core.
        measured: whether the size is of a compiled program.
        compiler: the compiler's version line; None for an estimate.
        flags: the compiler's options; None for an estimate.
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
        bytes: the total.
        state: bytes of the struct that the caller provides: frames and intermediate results.
        frame: bytes of the newest frame or observation, which the caller also holds.
        stack: bytes of the deepest call chain of generated functions, as the compiler reports it;
            an estimate without a compiler. Library functions are not included.
        libraries: bytes of the variables of library functions, such as those of `<math.h>`.
    """

    bytes: int
    state: int
    frame: int
    stack: int
    libraries: int


@dataclass(frozen=True)
class Agreement:
    """Agreement of the compiled C with ONNX Runtime on recorded states.

    Attributes:
        states: number of states.
        same_actions: share of states with the same greedy action.
        ties: states where ONNX Runtime's two best Q-values are within twice `largest_difference`.
        same_actions_without_ties: the share among the other states.
        largest_difference: largest absolute difference of a Q-value.
        q_range: ONNX Runtime's largest Q-value minus its smallest.
        relative: `largest_difference` divided by `q_range`.
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
        vectors: number of golden vectors in `golden.bin`.
        agreement: None without a compiler for this machine, or without recorded states.
    """

    flash: Flash
    ram: Ram
    vectors: int
    agreement: Agreement | None


def to_json(report: Any) -> str:
    """A report as indented JSON."""
    return json.dumps(dataclasses.asdict(report), indent=2, ensure_ascii=False) + "\n"
