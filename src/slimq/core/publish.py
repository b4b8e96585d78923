"""Publishing: whoever reads sees the old variant or the new one, whatever happens meanwhile.

The order is what makes it safe: content-named files first, each written under another name, synced
and renamed; then the folder is synced; then the manifest is replaced, which is the one commit
point. A process that dies on the way leaves files that no manifest names; whoever publishes next
removes those, after a grace period. One lock per policy keeps publishers apart; readers need none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
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

OURS = re.compile(r"[a-z]+-[0-9a-f]{12}(\.[a-z0-9]+)+")
"""The names that publishing gives; garbage collection touches no other file."""
GRACE_SECONDS = 3600.0
"""For which a reader with an old manifest still finds the files that it names."""

M = TypeVar("M", PolicyManifest, VariantManifest)


def content_entry(
    stem: str, suffix: str, content: bytes, uncompressed_bytes: int | None = None
) -> FileEntry:
    """The entry of a file that is named by its content, `stem-<sha12>suffix`.

    Args:
        stem: what the file is, such as `model`.
        suffix: with its dot, such as `.onnx.zst`.
        content: the stored bytes.
        uncompressed_bytes: bytes after decompression, for a `.zst` file.
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
        """Publishes a policy, or replaces its manifest; its variants stay.

        Args:
            manifest: what `policy.json` will hold.
            files: stored bytes by `entry.path`; a file that is there already may be left out.

        Raises:
            RepositoryError: files and entries do not match, or writing failed.
        """
        folder = (manifest.name,)
        _refuse_name(manifest.name)
        entries = _entries(manifest)
        if unnamed := sorted(set(files) - {entry.path for entry in entries}):
            raise RepositoryError(f"{manifest.name}/{unnamed[0]}", "the manifest does not name it")
        with publishing(self.root, folder):
            for entry in entries:
                self._write(folder, entry, files.get(entry.path))
            old = self._current((*folder, POLICY_FILE), PolicyManifest)
            self._commit((*folder, POLICY_FILE), manifest, old)
            self._tidy(manifest.name)

    def publish_variant(self, manifest: VariantManifest, model: bytes) -> None:
        """Publishes a variant, or replaces it.

        A variant whose model stays the same keeps its report, unless the manifest brings one.

        Args:
            manifest: what `variant.json` will hold.
            model: the stored bytes, compressed where `manifest.model` says so.

        Raises:
            NotFoundError: there is no such policy.
            RepositoryError: model and entry do not match, the model is no ONNX model or has
                external tensor data, or writing failed.
        """
        self.repository.policy(manifest.policy)
        _refuse_name(manifest.name)
        folder = (manifest.policy, VARIANTS, manifest.name)
        place = display((*folder, manifest.model.path))
        check_entry(model, manifest.model, place)
        check_model(decode(model, manifest.model, place), place)
        with publishing(self.root, folder):
            self._write(folder, manifest.model, model)
            old = self._current((*folder, VARIANT_FILE), VariantManifest)
            if old and manifest.report is None and old.model.sha256 == manifest.model.sha256:
                manifest = manifest.model_copy(update={"report": old.report})
            if manifest.report is not None:
                self._write(folder, manifest.report, None)
            self._commit((*folder, VARIANT_FILE), manifest, old)
            self._tidy(manifest.policy)

    def attach_report(self, policy: str, variant: str, report: EvaluationReport) -> VariantManifest:
        """Publishes what was measured of a variant; answers its new manifest.

        Raises:
            NotFoundError: there is no such policy or variant.
            RepositoryError: the report is about another model, or writing failed.
        """
        self.repository.variant(policy, variant)
        folder = (policy, VARIANTS, variant)
        with publishing(self.root, folder):
            old = self.repository.variant(policy, variant)
            if (report.policy, report.variant) != (policy, variant):
                problem = f"the report is about {report.policy}/{report.variant}"
                raise RepositoryError(display(folder), problem)
            if report.model_sha256 != old.model.sha256:
                problem = "the report measured another model; the variant has been replaced since"
                raise RepositoryError(display(folder), problem)
            content = _serialise(report, display((*folder, "report")))
            entry = content_entry("report", ".json", content)
            self._write(folder, entry, content)
            manifest = old.model_copy(update={"report": entry})
            self._commit((*folder, VARIANT_FILE), manifest, old)
            self._tidy(policy)
        return manifest

    def promote(self, policy: str, variant: str) -> PolicyManifest:
        """Makes a variant the policy's default; answers the new manifest.

        The default that it replaces is kept for `roll_back`, and routing ends: all requests that
        name no variant are the default's. Nothing changes where that was so already.

        Raises:
            NotFoundError: there is no such policy or variant.
            RepositoryError: its model is missing or tampered with, or writing failed.
        """
        return self._change_default(policy, lambda _: variant)

    def roll_back(self, policy: str) -> PolicyManifest:
        """Makes the default before the last promotion the default again; a second call undoes it.

        Raises:
            InvalidInputError: there was no promotion.
            NotFoundError: there is no such policy, or the earlier default has gone.
            RepositoryError: as in `promote`.
        """

        def earlier(manifest: PolicyManifest) -> str:
            if manifest.previous_default is None:
                expected = "a policy whose default was changed by slimq promote"
                raise InvalidInputError("previous_default", expected, f"{policy!r}, which has none")
            return manifest.previous_default

        return self._change_default(policy, earlier)

    def route(self, policy: str, routing: Routing | None) -> PolicyManifest:
        """Sets who answers requests that name no variant; None: the default variant alone.

        Raises:
            NotFoundError: there is no such policy or variant.
            RepositoryError: a model is missing or tampered with, or writing failed.
        """
        return self._direct(policy, "routing", routing, list(routing.weights) if routing else [])

    def shadow(self, policy: str, shadow: Shadow | None) -> PolicyManifest:
        """Sets who answers a share of the requests too; None: nobody. Raises as `route`."""
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
        """Commits other values of a policy's manifest, under its lock."""
        manifest = old.model_copy(update=changes)
        if manifest != old:
            self._commit((old.name, POLICY_FILE), manifest, old)
        return manifest

    def collect_garbage(self, policy: str, grace_seconds: float = GRACE_SECONDS) -> list[str]:
        """Removes files of a policy that no manifest names; answers their places.

        Only names that publishing gives are touched, and only when they have been unnamed for the
        grace period, so that a reader with the old manifest still finds them.

        Raises:
            NotFoundError: there is no such policy.
            RepositoryError: a manifest is broken (then nothing of its folder is removed).
        """
        self.repository.policy(policy)
        with publishing(self.root, (policy,)):
            return self._collect(policy, grace_seconds)

    def _tidy(self, policy: str) -> None:
        """Collects garbage after a commit, under its lock; what was published stands regardless."""
        log = structlog.get_logger(__name__)
        try:
            removed = self._collect(policy, GRACE_SECONDS)
        except (SlimqError, OSError) as error:
            log.warning("garbage was not collected", policy=policy, problem=str(error))
        else:
            if removed:
                log.info("garbage was collected", policy=policy, removed=removed)

    def _collect(self, policy: str, grace_seconds: float) -> list[str]:
        removed: list[str] = []
        folders: dict[tuple[str, ...], set[str]] = {
            (policy,): _named(self.repository.policy(policy))
        }
        variants = self.root / policy / VARIANTS
        for path in sorted(variants.iterdir()) if variants.is_dir() else ():
            if path.is_dir() and not path.is_symlink() and re.fullmatch(SLUG, path.name):
                complete = (path / VARIANT_FILE).exists()
                folders[policy, VARIANTS, path.name] = (
                    _named(self.repository.variant(policy, path.name)) if complete else set()
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

    def _write(self, folder: tuple[str, ...], entry: FileEntry, content: bytes | None) -> None:
        """Writes a file of a manifest; without content, checks the one that is there."""
        place = display((*folder, entry.path))
        if not OURS.fullmatch(entry.path) or f"-{entry.sha256[:12]}." not in entry.path:
            raise RepositoryError(place, "is not named by its content; see content_entry")
        if content is not None:
            check_entry(content, entry, place)
            write_atomically(self.root.joinpath(*folder, entry.path), content)
            return
        try:
            read_entry(self.root, folder, entry)
        except FileNotFoundError:
            raise RepositoryError(place, "is named by the manifest, but was not given") from None

    def _current(self, parts: tuple[str, ...], kind: type[M]) -> M | None:
        """The manifest that is about to be replaced; None where there is none or a broken one."""
        try:
            content = read_regular(self.root, parts, MAX_MANIFEST_BYTES)
        except FileNotFoundError:
            return None
        with contextlib.suppress(RepositoryError):
            return parse(content, kind, display(parts))
        return None

    def _commit(self, parts: tuple[str, ...], manifest: M, old: M | None) -> None:
        """Replaces the manifest; the grace period of the files it no longer names starts now."""
        refuse_links(self.root, parts)
        content = _serialise(manifest, display(parts))
        for name in _named(old) if old else ():
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.root.joinpath(*parts[:-1], name), follow_symlinks=False)
        write_atomically(self.root.joinpath(*parts), content)


def _entries(manifest: PolicyManifest | VariantManifest) -> list[FileEntry]:
    if isinstance(manifest, PolicyManifest):
        entries = [manifest.checkpoint, manifest.calibration]
    else:
        entries = [manifest.model, manifest.report]
    return [entry for entry in entries if entry is not None]


def _named(manifest: PolicyManifest | VariantManifest) -> set[str]:
    return {entry.path for entry in _entries(manifest)}


def _serialise(value: BaseModel, place: str) -> bytes:
    """Indented JSON with sorted keys, which reads back as the same value."""
    try:
        content = json.dumps(
            value.model_dump(mode="json"), indent=2, sort_keys=True, allow_nan=False
        )
    except ValueError as error:
        raise RepositoryError(place, "holds a number that is not finite") from error
    stored = (content + "\n").encode()
    parse(stored, type(value), place)
    return stored


def _refuse_name(name: str) -> None:
    if not re.fullmatch(SLUG, name):
        raise RepositoryError(name, f"is not a valid name: expected {SLUG}")
