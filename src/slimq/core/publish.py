"""Publishing: a reader sees either the old variant or the new one, even after a crash.

The order of writes makes it safe. Content-named files come first, each written to a temporary name,
synced and renamed; then the folder is synced; then the manifest is replaced, which is the only
commit point. A process that dies midway leaves unreferenced files; the next publisher removes them
after a grace period. One lock per policy serializes publishers; readers need no lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import structlog
from pydantic import BaseModel

from slimq.core._files import check_entry, decode, read_entry, read_regular
from slimq.core._protobuf import check_model
from slimq.core._walk import display, refuse_links
from slimq.core.atomic import TEMPORARY, publishing, write_atomically
from slimq.core.errors import InvalidInputError, RepositoryError, SlimqError
from slimq.core.manifest import (
    SLUG,
    FileEntry,
    PolicyManifest,
    Routing,
    Shadow,
    VariantManifest,
)
from slimq.core.report import EvaluationReport
from slimq.core.repository import (
    MAX_MANIFEST_BYTES,
    POLICY_FILE,
    VARIANT_FILE,
    VARIANTS,
    Repository,
    parse,
)
from slimq.core.schema import MAJOR, MINOR, Versioned

OURS = re.compile(r"[a-z]+-[0-9a-f]{12}(\.[a-z0-9]+)+")
"""Pattern of the file names that publishing creates; garbage collection touches no others."""
_NUMBERS = re.compile(r"\[\n[-+.\deE,\s]+\]")
"""Pattern of a list of numbers over several lines, which cannot occur in a JSON string."""
GRACE_SECONDS = 3600.0
"""Time for which a reader with an old manifest still finds its files."""

M = TypeVar("M", PolicyManifest, VariantManifest)


def content_entry(
    stem: str, suffix: str, content: bytes, uncompressed_bytes: int | None = None
) -> FileEntry:
    """Builds the entry of a content-named file, `stem-<sha12>suffix`.

    Args:
        stem: kind of file, such as `model`.
        suffix: file extension with its dot, such as `.onnx.zst`.
        content: the stored bytes.
        uncompressed_bytes: size after decompression, for a `.zst` file.
    """
    digest = hashlib.sha256(content).hexdigest()
    return FileEntry(
        path=f"{stem}-{digest[:12]}{suffix}",
        bytes=len(content),
        sha256=digest,
        uncompressed_bytes=uncompressed_bytes,
    )


class Publisher:
    """Writes policies, variants and reports into a repository."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.root = repository.root

    def publish_policy(self, manifest: PolicyManifest, files: Mapping[str, bytes]) -> None:
        """Publishes a policy, or replaces its manifest; existing variants are kept.

        Args:
            manifest: content of `policy.json`.
            files: stored bytes by `entry.path`; files already in the repository may be omitted.

        Raises:
            RepositoryError: files and entries do not match, or writing failed.
        """
        folder = (manifest.name,)
        _refuse_name(manifest.name)
        entries = _entries(manifest)
        if unnamed := sorted(set(files) - {entry.path for entry in entries}):
            raise RepositoryError(f"{manifest.name}/{unnamed[0]}", "is not named by the manifest")
        with publishing(self.root, folder), self._cleaned_up(folder, PolicyManifest):
            for entry in entries:
                self._write(folder, entry, files.get(entry.path))
            old = self._current((*folder, POLICY_FILE), PolicyManifest)
            self._commit((*folder, POLICY_FILE), manifest, old)
            self._tidy(manifest.name)

    def publish_variant(self, manifest: VariantManifest, model: bytes) -> None:
        """Publishes a variant, or replaces it.

        If the model is unchanged, the variant keeps its report unless the manifest names a new one.

        Args:
            manifest: content of `variant.json`.
            model: the stored bytes, compressed if `manifest.model` says so.

        Raises:
            NotFoundError: there is no such policy.
            RepositoryError: model and entry do not match, the model is not an ONNX model or is
                rejected by `check_model`, or writing failed.
        """
        self.repository.policy(manifest.policy)
        _refuse_name(manifest.name)
        folder = (manifest.policy, VARIANTS, manifest.name)
        place = display((*folder, manifest.model.path))
        check_entry(model, manifest.model, place)
        check_model(decode(model, manifest.model, place), place)
        with publishing(self.root, folder), self._cleaned_up(folder, VariantManifest):
            self._write(folder, manifest.model, model)
            old = self._current((*folder, VARIANT_FILE), VariantManifest)
            if old and manifest.report is None and old.model.sha256 == manifest.model.sha256:
                manifest = manifest.model_copy(update={"report": old.report})
            if manifest.report is not None:
                self._write(folder, manifest.report, None)
            self._commit((*folder, VARIANT_FILE), manifest, old)
            self._tidy(manifest.policy)

    def attach_report(self, policy: str, variant: str, report: EvaluationReport) -> VariantManifest:
        """Publishes a variant's evaluation report; returns the new manifest.

        Raises:
            NotFoundError: there is no such policy or variant.
            RepositoryError: the report is for another model, or writing failed.
        """
        self.repository.variant(policy, variant)
        folder = (policy, VARIANTS, variant)
        with publishing(self.root, folder), self._cleaned_up(folder, VariantManifest):
            old = self.repository.variant(policy, variant)
            if (report.policy, report.variant) != (policy, variant):
                problem = f"the report is for {report.policy}/{report.variant}"
                raise RepositoryError(display(folder), problem)
            if report.model_sha256 != old.model.sha256:
                problem = "the report is for another model; the variant has been replaced since"
                raise RepositoryError(display(folder), problem)
            content = _serialize(report, display((*folder, "report")))
            entry = content_entry("report", ".json", content)
            self._write(folder, entry, content)
            manifest = old.model_copy(update={"report": entry})
            self._commit((*folder, VARIANT_FILE), manifest, old)
            self._tidy(policy)
        return manifest

    def promote(self, policy: str, variant: str) -> PolicyManifest:
        """Makes a variant the policy's default; returns the new manifest.

        The previous default is recorded for `roll_back`, and routing is cleared, so that the new
        default answers all requests that name no variant. Does nothing if this is already the case.

        Raises:
            NotFoundError: there is no such policy or variant.
            RepositoryError: the model is missing or corrupt, or writing failed.
        """
        return self._change_default(policy, lambda _: variant)

    def roll_back(self, policy: str) -> PolicyManifest:
        """Restores the default before the last promotion; a second call undoes the first.

        Raises:
            InvalidInputError: there has been no promotion.
            NotFoundError: there is no such policy, or the earlier default no longer exists.
            RepositoryError: the model is missing or corrupt, or writing failed.
        """

        def earlier(manifest: PolicyManifest) -> str:
            if manifest.previous_default is None:
                expected = "a policy whose default was changed by slimq promote"
                raise InvalidInputError("previous_default", expected, f"{policy!r}, which has none")
            return manifest.previous_default

        return self._change_default(policy, earlier)

    def route(self, policy: str, routing: Routing | None) -> PolicyManifest:
        """Sets the split of requests that name no variant; None sends all to the default.

        Raises:
            NotFoundError: there is no such policy or variant.
            RepositoryError: a model is missing or corrupt, or writing failed.
        """
        return self._direct(policy, "routing", routing, list(routing.weights) if routing else [])

    def shadow(self, policy: str, shadow: Shadow | None) -> PolicyManifest:
        """Sets the shadow variant; None removes it. Raises the same errors as `route`."""
        return self._direct(policy, "shadow", shadow, [shadow.variant] if shadow else [])

    def _direct(
        self, policy: str, key: str, value: Routing | Shadow | None, variants: list[str]
    ) -> PolicyManifest:
        self.repository.policy(policy)
        with publishing(self.root, (policy,)):
            old = self.repository.policy(policy)
            for variant in variants:
                self.repository.read_model(policy, variant)
            return self._change(old, {key: value})

    def _change_default(
        self, policy: str, choose: Callable[[PolicyManifest], str]
    ) -> PolicyManifest:
        self.repository.policy(policy)
        with publishing(self.root, (policy,)):
            old = self.repository.policy(policy)
            variant = choose(old)
            self.repository.read_model(policy, variant)
            changes: dict[str, object] = {"routing": None}
            if variant != old.default_variant:
                changes |= {"default_variant": variant, "previous_default": old.default_variant}
            return self._change(old, changes)

    def _change(self, old: PolicyManifest, changes: Mapping[str, object]) -> PolicyManifest:
        """Commits changed fields of a policy's manifest; the caller holds the policy's lock."""
        manifest = old.model_copy(update=changes)
        if manifest != old:
            self._commit((old.name, POLICY_FILE), manifest, old)
        return manifest

    def collect_garbage(self, policy: str, grace_seconds: float = GRACE_SECONDS) -> list[str]:
        """Removes a policy's unreferenced files; returns their paths in the repository.

        Only files named by publishing are touched, and only after they have been unreferenced for
        the grace period, so that a reader with an old manifest can still find them.

        Raises:
            NotFoundError: there is no such policy.
            RepositoryError: a manifest is invalid; nothing is removed.
        """
        self.repository.policy(policy)
        with publishing(self.root, (policy,)):
            return self._collect(policy, grace_seconds)

    def _tidy(self, policy: str) -> None:
        """Collects garbage after a commit, under the same lock; a failure does not undo it."""
        log = structlog.get_logger(__name__)
        try:
            removed = self._collect(policy, GRACE_SECONDS)
        except (SlimqError, OSError) as error:
            log.warning("garbage collection failed", policy=policy, problem=str(error))
        else:
            if removed:
                log.info("removed unreferenced files", policy=policy, removed=removed)

    def _collect(self, policy: str, grace_seconds: float) -> list[str]:
        removed: list[str] = []
        folders: dict[tuple[str, ...], set[str]] = {
            (policy,): _all_named(self.repository.policy(policy))
        }
        variants = self.root / policy / VARIANTS
        for path in sorted(variants.iterdir()) if variants.is_dir() else ():
            if path.is_dir() and not path.is_symlink() and re.fullmatch(SLUG, path.name):
                complete = (path / VARIANT_FILE).exists()
                folders[policy, VARIANTS, path.name] = (
                    _all_named(self.repository.variant(policy, path.name)) if complete else set()
                )
        for folder, named in folders.items():
            removed += self._sweep(folder, named, time.time() - grace_seconds)
        return removed

    def _sweep(self, folder: tuple[str, ...], named: set[str], before: float) -> list[str]:
        removed = []
        for path in sorted(self.root.joinpath(*folder).iterdir()):
            ours = path.name.startswith(TEMPORARY) or OURS.fullmatch(path.name)
            if ours and path.name not in named and path.lstat().st_mtime <= before:
                path.unlink()
                removed.append(display((*folder, path.name)))
        return removed

    @contextlib.contextmanager
    def _cleaned_up(self, folder: tuple[str, ...], kind: type[M]) -> Iterator[None]:
        """Removes the new files of a publication that fails, for example on a full disk."""
        place = self.root.joinpath(*folder)
        before = set(place.iterdir())
        try:
            yield
        except OSError:
            # The manifest may have been replaced before the failure and then references the new
            # files.
            parts = (*folder, POLICY_FILE if kind is PolicyManifest else VARIANT_FILE)
            with contextlib.suppress(OSError, SlimqError):
                current = self._current(parts, kind)
                named = _named(current) if current else set()
                for path in set(place.iterdir()) - before:
                    if OURS.fullmatch(path.name) and path.name not in named:
                        path.unlink()
                if not any(place.iterdir()):
                    place.rmdir()
            raise

    def _write(self, folder: tuple[str, ...], entry: FileEntry, content: bytes | None) -> None:
        """Writes a file named by a manifest; without content, checks the existing one."""
        place = display((*folder, entry.path))
        if not OURS.fullmatch(entry.path) or f"-{entry.sha256[:12]}." not in entry.path:
            raise RepositoryError(place, "is not named by its content hash; see content_entry")
        if content is not None:
            check_entry(content, entry, place)
            write_atomically(self.root.joinpath(*folder, entry.path), content)
            return
        try:
            read_entry(self.root, folder, entry)
        except FileNotFoundError:
            problem = "is named by the manifest but was neither supplied nor found"
            raise RepositoryError(place, problem) from None

    def _current(self, parts: tuple[str, ...], kind: type[M]) -> M | None:
        """The manifest about to be replaced; None if it is missing or invalid."""
        try:
            content = read_regular(self.root, parts, MAX_MANIFEST_BYTES)
        except FileNotFoundError:
            return None
        with contextlib.suppress(RepositoryError):
            return parse(content, kind, display(parts))
        return None

    def _commit(self, parts: tuple[str, ...], manifest: M, old: M | None) -> None:
        """Replaces the manifest; files that it no longer names start their grace period now."""
        refuse_links(self.root, parts)
        content = _serialize(manifest, display(parts))
        for name in _named(old) if old else ():
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.root.joinpath(*parts[:-1], name), follow_symlinks=False)
        write_atomically(self.root.joinpath(*parts), content)


def _entries(manifest: PolicyManifest | VariantManifest) -> list[FileEntry]:
    if isinstance(manifest, PolicyManifest):
        entries = [
            manifest.checkpoint,
            manifest.graph,
            manifest.calibration,
            manifest.held_out,
        ]
    else:
        entries = [manifest.model, manifest.report]
    return [entry for entry in entries if entry is not None]


def _named(manifest: PolicyManifest | VariantManifest) -> set[str]:
    return {entry.path for entry in _entries(manifest)}


def _all_named(manifest: PolicyManifest | VariantManifest) -> set[str]:
    """Names of all files that a manifest references.

    Raises:
        RepositoryError: a newer slimq made it and may reference files that are unknown here.
    """
    if manifest.is_newer:
        raise RepositoryError(manifest.name, f"{_made_by_newer(manifest)}; no file is removed")
    return _named(manifest)


def _made_by_newer(document: Versioned) -> str:
    made = f"{document.schema_version}.{document.schema_minor}"
    return f"was made by a newer slimq (schema {made}, this one writes {MAJOR}.{MINOR})"


def _serialize(value: BaseModel, place: str) -> bytes:
    """Serializes to indented JSON with sorted keys and each list of numbers on one line.

    Checks that the result parses again.

    Raises:
        RepositoryError: a number is not finite, or the document has a newer minor version.
    """
    if isinstance(value, Versioned) and value.is_newer:
        problem = "writing it would lose the fields that are new in it"
        raise RepositoryError(place, f"{_made_by_newer(value)}; {problem}")
    try:
        content = json.dumps(
            value.model_dump(mode="json"), indent=2, sort_keys=True, allow_nan=False
        )
    except ValueError as error:
        raise RepositoryError(place, "contains a non-finite number") from error
    stored = (_NUMBERS.sub(_join_lines, content) + "\n").encode()
    parse(stored, type(value), place)
    return stored


def _join_lines(numbers: re.Match[str]) -> str:
    return "[" + ",".join(numbers[0][1:-1].replace(",", " ").split()) + "]"


def _refuse_name(name: str) -> None:
    if not re.fullmatch(SLUG, name):
        raise RepositoryError(name, f"is not a valid name: expected {SLUG}")
