"""The targets of an export, and the one function that exports to any of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimq.core.errors import InvalidInputError, suggestion
from slimq.core.repository import Repository
from slimq.core.staging import FolderKind, check_output, staged
from slimq_compression.export.c.target import export_c
from slimq_compression.export.onnx_file import export_onnx
from slimq_compression.export.options import Options
from slimq_compression.export.report import to_json
from slimq_compression.export.subject import Subject, read_subject
from slimq_compression.export.web.target import export_web

REPORT = "report.json"
"""File of every export; a folder that has it may be replaced."""
EXPORT = FolderKind("an export", f"its {REPORT}", lambda folder: (folder / REPORT).is_file())

Exporter = Callable[[Repository, Subject, Path, Options], Any]
"""Writes the files of an export into an empty folder; returns its report, a dataclass."""


@dataclass(frozen=True)
class Target:
    """A platform on which variants run.

    Attributes:
        description: help text of the command.
        export: writes the files.
    """

    description: str
    export: Exporter


TARGETS: dict[str, Target] = {
    "c": Target("a C99 header and source for microcontrollers", export_c),
    "onnx": Target("one ONNX file that describes itself", export_onnx),
    "web": Target("a folder with a page on which the variant plays in a browser", export_web),
}


def export_variant(
    repository: Repository,
    policy: str,
    variant: str,
    target: str,
    output: Path,
    options: Options,
    *,
    replace: bool = False,
) -> Any:
    """Exports a variant into a folder, which is written whole or not at all.

    Args:
        repository: the policy's repository.
        policy: the policy's name.
        variant: the variant's name.
        target: one of `TARGETS`.
        output: the folder to make.
        options: the target's options.
        replace: whether an earlier export may be replaced.

    Returns:
        The target's report, as written to `report.json`.

    Raises:
        NotFoundError: there is no such policy or variant.
        InvalidInputError: an option is not valid, or the target lacks an operator of the variant.
        CheckFailedError: the variant exceeds a limit, or the export fails its own check.
        RepositoryError: a file of the repository is missing, invalid or tampered with.
    """
    if target not in TARGETS:
        hint = suggestion(target, TARGETS)
        raise InvalidInputError("target", " or ".join(TARGETS), repr(target), hint)
    options.check()
    check_output(output, EXPORT, replace=replace)
    subject = read_subject(repository, policy, variant)
    # Compilers run in other folders.
    with staged(output.absolute(), EXPORT, replace=replace) as folder:
        report = TARGETS[target].export(repository, subject, folder, options)
        (folder / REPORT).write_text(to_json(report), encoding="utf-8")
    return report
