"""The repository on disk, the only interface between training, compression and the service.

    policies/pong/policy.json                        PolicyManifest
    policies/pong/checkpoint-<sha12>.safetensors
    policies/pong/calibration-<sha12>.npz
    policies/pong/variants/int8/variant.json         VariantManifest, the only commit point
    policies/pong/variants/int8/model-<sha12>.onnx[.zst]
    policies/pong/variants/int8/report-<sha12>.json

Reading takes no lock. Files are named by content and manifests are replaced atomically, so a reader
sees a variant either before or after a publication; if a file is missing, its manifest is read once
more. Symbolic links are followed as long as they stay below the root. Names that begin with a dot,
such as the `..data` of a Kubernetes volume, are neither policies nor variants.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from slimq.core._files import (
    MAX_FILE_BYTES,
    decode,
    list_folder,
    read_entry,
    read_regular,
    stamps_in,
    status_of,
    statuses_in,
)
from slimq.core._walk import display
from slimq.core.calibration import CalibrationSet, parse_calibration
from slimq.core.errors import NotFoundError, RepositoryError, suggestion
from slimq.core.manifest import SLUG, FileEntry, PolicyManifest, VariantManifest
from slimq.core.report import EvaluationReport
from slimq.core.schema import MAJOR, read_document
from slimq.core.stamp import FileStamp

POLICY_FILE, VARIANT_FILE, VARIANTS = "policy.json", "variant.json", "variants"
MAX_MANIFEST_BYTES = 16 << 20
"""Maximum size of a manifest, which never contains weights."""

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class Repository:
    """A folder of policies and their variants, read-only.

    Every method checks names against the slug rule before it accesses the disk, and raises
    `RepositoryError` with the file's path in the repository if the disk breaks the contract.

    Attributes:
        root: the folder.
        max_model_bytes: maximum size of an uncompressed model; a larger one is not read.
    """

    def __init__(self, root: Path, max_model_bytes: int = MAX_FILE_BYTES) -> None:
        self.root, self.max_model_bytes = root, max_model_bytes

    def policies(self) -> list[str]:
        """The names of all policies, sorted.

        Raises:
            RepositoryError: the root cannot be listed.
        """
        return self._names((), POLICY_FILE)

    def policy(self, name: str) -> PolicyManifest:
        """The manifest of a policy.

        Raises:
            NotFoundError: there is no such policy; the error lists the available ones.
            RepositoryError: the manifest cannot be read, or is invalid.
        """
        parts = (*self._policy_folder(name), POLICY_FILE)
        try:
            manifest = self._manifest(parts, PolicyManifest)
        except FileNotFoundError:
            raise NotFoundError("policy", name, self.policies()) from None
        if manifest.name != name:
            problem = f"name: expected {name!r}, as the folder says, found {manifest.name!r}"
            raise RepositoryError(display(parts), problem)
        return manifest

    def variants(self, policy: str) -> list[str]:
        """The names of a policy's variants, sorted.

        Raises:
            NotFoundError: there is no such policy.
            RepositoryError: they cannot be listed.
        """
        if not self.has_policy(policy):
            raise NotFoundError("policy", policy, self.policies())
        try:
            return self._names((policy, VARIANTS), VARIANT_FILE)
        except FileNotFoundError:
            return []

    def incomplete(self, policy: str | None = None) -> list[str]:
        """Names of folders with files but no manifest, among a policy's variants or among policies.

        An interrupted first publication leaves such a folder; readers ignore it.

        Raises:
            RepositoryError: the folder above them cannot be listed.
        """
        folder, marker = ((), POLICY_FILE) if policy is None else ((policy, VARIANTS), VARIANT_FILE)
        try:
            names = self._slugs(folder)
        except FileNotFoundError:
            return []
        complete = self._names(folder, marker)
        return [
            name for name in names if name not in complete and self._holds_files((*folder, name))
        ]

    def variant(self, policy: str, variant: str) -> VariantManifest:
        """The manifest of a variant.

        Raises:
            NotFoundError: there is no such policy or variant; the error lists the available ones.
            RepositoryError: the manifest cannot be read, or is invalid.
        """
        parts = (*self._variant_folder(policy, variant), VARIANT_FILE)
        try:
            manifest = self._manifest(parts, VariantManifest)
        except FileNotFoundError:
            raise NotFoundError("variant", variant, self.variants(policy)) from None
        if (manifest.policy, manifest.name) != (policy, variant):
            found = f"{manifest.policy}/{manifest.name}"
            problem = f"policy and name: expected {policy}/{variant}, as the folders say"
            raise RepositoryError(display(parts), f"{problem}, found {found}")
        return manifest

    def read_model(self, policy: str, variant: str) -> tuple[VariantManifest, bytes]:
        """A variant's manifest and its model, verified and decompressed.

        Raises:
            NotFoundError: there is no such policy or variant.
            RepositoryError: the model is missing, too large, truncated or tampered with.
        """
        folder = self._variant_folder(policy, variant)

        def read() -> tuple[VariantManifest, bytes]:
            manifest = self.variant(policy, variant)
            place = display((*folder, manifest.model.path))
            size = manifest.model.uncompressed_bytes or manifest.model.bytes
            if size > self.max_model_bytes:
                problem = f"has {size} bytes uncompressed, expected at most {self.max_model_bytes}"
                raise RepositoryError(place, problem)
            stored = read_entry(self.root, folder, manifest.model)
            return manifest, decode(stored, manifest.model, place)

        return _retry_if_gone(read)

    def report(self, policy: str, variant: str) -> EvaluationReport | None:
        """A variant's evaluation report; None if it has not been evaluated.

        Raises:
            NotFoundError: there is no such policy or variant.
            RepositoryError: the report is missing, invalid, or for another model.
        """
        return _retry_if_gone(lambda: self._report(self.variant(policy, variant)))

    def report_of(self, manifest: VariantManifest) -> EvaluationReport | None:
        """The report that this manifest names, even if a newer one has replaced it.

        Raises:
            NotFoundError: there is no such policy or variant any more.
            RepositoryError: the report is missing, invalid, or for another model.
        """
        return _retry_if_gone(lambda: self._report(manifest))

    def _report(self, manifest: VariantManifest) -> EvaluationReport | None:
        folder = self._variant_folder(manifest.policy, manifest.name)
        if manifest.report is None:
            return None
        place = display((*folder, manifest.report.path))
        report = parse(read_entry(self.root, folder, manifest.report), EvaluationReport, place)
        if report.model_sha256 != manifest.model.sha256:
            raise RepositoryError(place, "model_sha256: is not that of the variant's model")
        return report

    def read_file(self, policy: str, entry: FileEntry) -> bytes:
        """The verified stored bytes of a file next to `policy.json`.

        Raises:
            RepositoryError: it is missing, truncated or tampered with.
        """
        folder = self._policy_folder(policy)
        try:
            return read_entry(self.root, folder, entry)
        except FileNotFoundError:
            raise RepositoryError(display((*folder, entry.path)), "is missing") from None

    def calibration(self, manifest: PolicyManifest) -> CalibrationSet | None:
        """A policy's calibration set; None if the manifest names none.

        Raises:
            RepositoryError: it is missing, truncated, tampered with, or does not fit the policy.
        """
        return self._states(manifest, manifest.calibration)

    def held_out(self, manifest: PolicyManifest) -> CalibrationSet | None:
        """A policy's held-out states; None if there are none. Raises `calibration`'s errors."""
        return self._states(manifest, manifest.held_out)

    def _states(self, manifest: PolicyManifest, entry: FileEntry | None) -> CalibrationSet | None:
        if entry is None:
            return None
        content = self.read_file(manifest.name, entry)
        return parse_calibration(content, manifest, display((manifest.name, entry.path)))

    def has_policy(self, name: str) -> bool:
        """Whether there is a policy of this name, readable or not.

        Raises:
            RepositoryError: a link to it leaves the repository, or it cannot be read.
        """
        if not re.fullmatch(SLUG, name):
            return False
        status = status_of(self.root, (name, POLICY_FILE))
        return status is not None and stat.S_ISREG(status.st_mode)

    def variant_folder(self, policy: str, variant: str) -> Path:
        """The path of a variant's folder, whether or not it exists.

        Raises:
            NotFoundError: a name is not valid.
        """
        return self.root.joinpath(*self._variant_folder(policy, variant))

    def stamp(self, policy: str, variant: str) -> FileStamp | None:
        """The stamp of `variant.json`, for watchers; None if it is missing or unreadable."""
        return self.stamps(policy, [(variant, VARIANT_FILE)])[0]

    def policy_stamp(self, policy: str) -> FileStamp | None:
        """The stamp of `policy.json`, for watchers; None if it is missing or unreadable."""
        if not re.fullmatch(SLUG, policy):
            return None
        return stamps_in(self.root, (policy,), [(POLICY_FILE,)])[0]

    def stamps(self, policy: str, files: Sequence[tuple[str, str]]) -> list[FileStamp | None]:
        """The stamps of files of a policy's variants, in one pass.

        Args:
            policy: the policy's name.
            files: pairs of a variant's name and the name of one of its files.

        Returns:
            The stamp of each file; None if it is missing or unreadable.
        """
        if not re.fullmatch(SLUG, policy):
            return [None] * len(files)
        return stamps_in(self.root, (policy, VARIANTS), files)

    def _policy_folder(self, policy: str) -> tuple[str, ...]:
        if not re.fullmatch(SLUG, policy):
            raise NotFoundError("policy", policy, self.policies())
        return (policy,)

    def _variant_folder(self, policy: str, variant: str) -> tuple[str, ...]:
        folder = self._policy_folder(policy)
        if not re.fullmatch(SLUG, variant):
            raise NotFoundError("variant", variant, self.variants(policy))
        return (*folder, VARIANTS, variant)

    def _manifest(self, parts: tuple[str, ...], kind: type[M]) -> M:
        return parse(read_regular(self.root, parts, MAX_MANIFEST_BYTES), kind, display(parts))

    def _names(self, folder: tuple[str, ...], marker: str) -> list[str]:
        names = self._slugs(folder)
        found = statuses_in(self.root, folder, [(name, marker) for name in names])
        return [name for name, status in zip(names, found, strict=True) if _may_be_file(status)]

    def _slugs(self, folder: tuple[str, ...]) -> list[str]:
        """The names in a folder that may be policies or variants.

        Raises:
            FileNotFoundError: there is no such folder below the root.
        """
        try:
            names = list_folder(self.root, folder)
        except FileNotFoundError as error:
            if folder:
                raise
            problem = f"cannot be listed: {error.strerror}"
            raise RepositoryError(str(self.root), problem) from None
        return sorted(name for name in names if re.fullmatch(SLUG, name))

    def _holds_files(self, folder: tuple[str, ...]) -> bool:
        """Whether it is a folder that holds more than locks and unfinished files."""
        try:
            names = list_folder(self.root, folder)
        except (FileNotFoundError, RepositoryError):
            return False
        return any(not name.startswith(".") for name in names)


def parse(content: bytes, kind: type[M], place: str) -> M:
    """Parses a manifest or report from JSON.

    Raises:
        RepositoryError: the content is invalid; the error names the file, the key and the nearest
            valid key.
    """
    try:
        return read_document(content, kind)
    except ValidationError as error:
        raise RepositoryError(place, _explain(error, kind)) from error


def _may_be_file(status: os.stat_result | RepositoryError | None) -> bool:
    """Whether it is a file; True also if unknown, so that reading it reports the reason."""
    if isinstance(status, os.stat_result):
        return stat.S_ISREG(status.st_mode)
    return status is not None


def _explain(error: ValidationError, kind: type[BaseModel]) -> str:
    problems = sorted(error.errors(), key=lambda problem: problem["loc"] != ("schema_version",))
    first = problems[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        valid = kind.model_fields if len(first["loc"]) == 1 else ()
        explanation = f"{key}: unknown key{suggestion(key, valid)}"
    elif key == "schema_version":
        explanation = f"schema_version: this slimq reads {MAJOR}, found {first['input']!r}"
        if type(first["input"]) is int and first["input"] > MAJOR:
            explanation += "; a newer slimq made it"
    elif key:
        explanation = f"{key}: {first['msg']}"
    else:
        explanation = first["msg"]
    rest = len(problems) - 1
    return f"{explanation} (and {rest} more)" if rest else explanation


def _retry_if_gone(read: Callable[[], T]) -> T:
    """Calls `read`, and once more if a file has gone, since its manifest may have been replaced."""
    try:
        return read()
    except FileNotFoundError:
        try:
            return read()
        except FileNotFoundError as error:
            raise RepositoryError(str(error.filename), "is missing") from None
