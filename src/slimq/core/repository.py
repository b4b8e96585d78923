"""The repository on disk: the only thing that training and compression hand to the service.

    policies/pong/policy.json                        PolicyManifest
    policies/pong/checkpoint-<sha12>.safetensors
    policies/pong/calibration-<sha12>.npz
    policies/pong/variants/int8/variant.json         VariantManifest, the only commit point
    policies/pong/variants/int8/model-<sha12>.onnx[.zst]
    policies/pong/variants/int8/report-<sha12>.json

Reading takes no lock. Files are named by content and manifests are replaced whole, so a reader sees
a variant as it was or as it is; when a file has gone between the two, the manifest is read again.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from slimq.core._files import LARGEST_FILE, decode, display, read_entry, read_regular, refuse_links
from slimq.core.calibration import CalibrationSet, parse_calibration
from slimq.core.errors import NotFoundError, RepositoryError, suggestion
from slimq.core.manifest import SLUG, FileEntry, PolicyManifest, VariantManifest
from slimq.core.report import EvaluationReport

POLICY_FILE, VARIANT_FILE, VARIANTS = "policy.json", "variant.json", "variants"
LARGEST_MANIFEST = 16 << 20
"""Bytes; a manifest holds numbers about a policy, never its weights."""

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class Repository:
    """A folder of policies and their variants, read only.

    Every method checks names against the slug rule before they touch the disk, and raises
    `RepositoryError` with the file's place in the repository when the disk breaks the contract.

    Attributes:
        root: the folder.
        largest_model: bytes that a model may have, uncompressed; a larger one is not read.
    """

    def __init__(self, root: Path, largest_model: int = LARGEST_FILE) -> None:
        self.root, self.largest_model = root, largest_model

    def policies(self) -> list[str]:
        """The names of all policies, sorted.

        Raises:
            RepositoryError: the root is no readable folder.
        """
        return self._names((), POLICY_FILE)

    def policy(self, name: str) -> PolicyManifest:
        """The manifest of a policy.

        Raises:
            NotFoundError: there is no such policy; lists those that are there.
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
        """
        self._require_policy(policy)
        folder = (policy, VARIANTS)
        mode = refuse_links(self.root, folder)
        return self._names(folder, VARIANT_FILE) if stat.S_ISDIR(mode) else []

    def incomplete(self, policy: str | None = None) -> list[str]:
        """Names of folders with files but without a manifest: a policy's variants, or policies.

        A first publishing that was interrupted leaves such a folder; readers pass it over.

        Raises:
            RepositoryError: the folder that holds them cannot be listed.
        """
        folder, marker = ((), POLICY_FILE) if policy is None else ((policy, VARIANTS), VARIANT_FILE)
        path = self.root.joinpath(*folder)
        return [
            name
            for name in (self._slugs(folder) if policy is None or path.is_dir() else [])
            if not _may_be_file(path / name / marker) and _holds_files(path / name)
        ]

    def variant(self, policy: str, variant: str) -> VariantManifest:
        """The manifest of a variant.

        Raises:
            NotFoundError: there is no such policy or variant; lists those that are there.
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
            RepositoryError: the model is missing, truncated, tampered with, or a link.
        """
        folder = self._variant_folder(policy, variant)

        def read() -> tuple[VariantManifest, bytes]:
            manifest = self.variant(policy, variant)
            place = display((*folder, manifest.model.path))
            size = manifest.model.uncompressed_bytes or manifest.model.bytes
            if size > self.largest_model:
                problem = f"is of {size} bytes uncompressed, expected at most {self.largest_model}"
                raise RepositoryError(place, problem)
            stored = read_entry(self.root, folder, manifest.model)
            return manifest, decode(stored, manifest.model, place)

        return _again_if_gone(read)

    def report(self, policy: str, variant: str) -> EvaluationReport | None:
        """What was measured of a variant, None where it is not evaluated yet.

        Raises:
            NotFoundError: there is no such policy or variant.
            RepositoryError: the report is missing, broken, or about another model.
        """
        folder = self._variant_folder(policy, variant)

        def read() -> EvaluationReport | None:
            manifest = self.variant(policy, variant)
            if manifest.report is None:
                return None
            place = display((*folder, manifest.report.path))
            stored = read_entry(self.root, folder, manifest.report)
            report = parse(stored, EvaluationReport, place)
            if report.model_sha256 != manifest.model.sha256:
                raise RepositoryError(place, "model_sha256: is not that of the variant's model")
            return report

        return _again_if_gone(read)

    def read_file(self, policy: str, entry: FileEntry) -> bytes:
        """The verified stored bytes of a file beside `policy.json`.

        Raises:
            RepositoryError: it is missing, truncated, tampered with, or a link.
        """
        folder = self._policy_folder(policy)
        try:
            return read_entry(self.root, folder, entry)
        except FileNotFoundError:
            raise RepositoryError(display((*folder, entry.path)), "is missing") from None

    def calibration(self, manifest: PolicyManifest) -> CalibrationSet | None:
        """A policy's calibration set, which fits it; None where the manifest names none.

        Raises:
            RepositoryError: it is missing, truncated, tampered with, a link, or does not fit.
        """
        entry = manifest.calibration
        if entry is None:
            return None
        content = self.read_file(manifest.name, entry)
        return parse_calibration(content, manifest, display((manifest.name, entry.path)))

    def has_policy(self, name: str) -> bool:
        """Whether a policy has this name already, readable or not.

        Raises:
            RepositoryError: it is a link, or cannot be looked at.
        """
        parts = (name, POLICY_FILE)
        return bool(re.fullmatch(SLUG, name)) and stat.S_ISREG(refuse_links(self.root, parts))

    def variant_folder(self, policy: str, variant: str) -> Path:
        """Where a variant's files are, whether it is there or not.

        Raises:
            NotFoundError: a name is none.
        """
        return self.root.joinpath(*self._variant_folder(policy, variant))

    def stamp(self, policy: str, variant: str) -> tuple[int, int] | None:
        """(mtime in ns, inode) of `variant.json`, None where it is not there; for watchers."""
        if not (re.fullmatch(SLUG, policy) and re.fullmatch(SLUG, variant)):
            return None
        return _stamp(self.root / policy / VARIANTS / variant / VARIANT_FILE)

    def policy_stamp(self, policy: str) -> tuple[int, int] | None:
        """(mtime in ns, inode) of `policy.json`, None where it is not there; for watchers.

        Of the file itself: where a link takes its place, that is seen, and reading refuses it.
        """
        return _stamp(self.root / policy / POLICY_FILE) if re.fullmatch(SLUG, policy) else None

    def _policy_folder(self, policy: str) -> tuple[str, ...]:
        if not re.fullmatch(SLUG, policy):
            raise NotFoundError("policy", policy, self.policies())
        return (policy,)

    def _variant_folder(self, policy: str, variant: str) -> tuple[str, ...]:
        folder = self._policy_folder(policy)
        if not re.fullmatch(SLUG, variant):
            raise NotFoundError("variant", variant, self.variants(policy))
        return (*folder, VARIANTS, variant)

    def _require_policy(self, policy: str) -> None:
        if not self.has_policy(policy):
            raise NotFoundError("policy", policy, self.policies())

    def _manifest(self, parts: tuple[str, ...], kind: type[M]) -> M:
        return parse(read_regular(self.root, parts, LARGEST_MANIFEST), kind, display(parts))

    def _names(self, folder: tuple[str, ...], marker: str) -> list[str]:
        path = self.root.joinpath(*folder)
        return [name for name in self._slugs(folder) if _may_be_file(path / name / marker)]

    def _slugs(self, folder: tuple[str, ...]) -> list[str]:
        try:
            names = [entry.name for entry in self.root.joinpath(*folder).iterdir()]
        except OSError as error:
            place = display(folder) or str(self.root)
            raise RepositoryError(place, f"cannot be listed: {error.strerror}") from error
        return sorted(name for name in names if re.fullmatch(SLUG, name))


def parse(content: bytes, kind: type[M], place: str) -> M:
    """A manifest or report from its JSON.

    Raises:
        RepositoryError: names the file, the key and the nearest valid key.
    """
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise RepositoryError(place, _explain(error, kind)) from error


def _may_be_file(path: Path) -> bool:
    """Whether it is a file; also True where nobody can tell, so that reading it says why."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def _holds_files(path: Path) -> bool:
    """Whether it is a folder with more in it than locks and unfinished files."""
    try:
        return any(not entry.name.startswith(".") for entry in path.iterdir())
    except OSError:
        return False


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _explain(error: ValidationError, kind: type[BaseModel]) -> str:
    problems = sorted(error.errors(), key=lambda problem: problem["loc"] != ("schema_version",))
    first = problems[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        valid = kind.model_fields if len(first["loc"]) == 1 else ()
        explanation = f"{key}: unknown key{suggestion(key, valid)}"
    elif key == "schema_version":
        explanation = f"schema_version: this slimq reads 1, found {first['input']!r}"
    elif key:
        explanation = f"{key}: {first['msg']}"
    else:
        explanation = first["msg"]
    rest = len(problems) - 1
    return f"{explanation} (and {rest} more)" if rest else explanation


def _again_if_gone(read: Callable[[], T]) -> T:
    """Reads; once more where a file has gone, since its manifest may have been replaced."""
    try:
        return read()
    except FileNotFoundError:
        try:
            return read()
        except FileNotFoundError as error:
            raise RepositoryError(str(error), "is missing") from None
