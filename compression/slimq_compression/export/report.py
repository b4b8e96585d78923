"""The report of an export to C, written beside the sources."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any


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
class CReport:
    """What is known of an export to C.

    Attributes:
        vectors: golden vectors in `golden.bin`.
        agreement: None without a compiler for this machine, or without recorded states.
    """

    target: str
    policy: str
    variant: str
    model_sha256: str
    slimq: str
    evidence: str
    macs: int
    flash: Flash
    ram: Ram
    vectors: int
    agreement: Agreement | None


def to_json(report: Any) -> str:
    """A report as indented JSON."""
    return json.dumps(dataclasses.asdict(report), indent=2, ensure_ascii=False) + "\n"
