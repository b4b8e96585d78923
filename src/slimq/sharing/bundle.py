"""The files of a policy as they lie on a hub: its folder of the repository, beside its card.

policy.json, checkpoint-<sha12>.safetensors, calibration-<sha12>.npz
variants/int8/variant.json, model-<sha12>.onnx, report-<sha12>.json
README.md, replay.mp4, plots/…                     the card
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from slimq.core._files import read_entry, read_regular
from slimq.core.errors import CheckFailedError, InvalidInputError
from slimq.core.manifest import FileEntry, PolicyManifest, VariantManifest
from slimq.core.repository import (
    MAX_MANIFEST_BYTES,
    POLICY_FILE,
    VARIANT_FILE,
    VARIANTS,
    Repository,
)
from slimq.core.verification import find_problems
from slimq.sharing.card import CARD_FILES

_SLUG = r"[a-z0-9][a-z0-9._-]{0,63}"
_NAMED = r"[a-z]+-[0-9a-f]{12}(?:\.[a-z0-9]+)+"
POLICY_FILES = re.compile(rf"policy\.json|{_NAMED}|{VARIANTS}/{_SLUG}/(?:variant\.json|{_NAMED})")
"""Every file that a policy may have, as a path in its folder."""
HUB_FILES = {".gitattributes"}
"""Files that a hub adds by itself."""
MAX_FILES = 10_000


def policy_files(repository: Repository, policy: str) -> dict[str, bytes]:
    """The stored bytes of all files that a policy's manifests name, by path in its folder.

    Raises:
        NotFoundError: there is no such policy.
        RepositoryError: a file is missing, invalid or tampered with.
    """
    manifest = repository.policy(policy)
    files = {POLICY_FILE: read_regular(repository.root, (policy, POLICY_FILE), MAX_MANIFEST_BYTES)}
    for entry in policy_entries(manifest):
        files[entry.path] = read_entry(repository.root, (policy,), entry)
    for name in repository.variants(policy):
        folder = (policy, VARIANTS, name)
        variant = repository.variant(policy, name)
        parts = (*folder, VARIANT_FILE)
        path = f"{VARIANTS}/{name}"
        files[f"{path}/{VARIANT_FILE}"] = read_regular(repository.root, parts, MAX_MANIFEST_BYTES)
        for entry in variant_entries(variant):
            files[f"{path}/{entry.path}"] = read_entry(repository.root, folder, entry)
    return files


def policy_entries(manifest: PolicyManifest) -> list[FileEntry]:
    """The files that `policy.json` names."""
    found = (manifest.checkpoint, manifest.graph, manifest.calibration, manifest.held_out)
    return [entry for entry in found if entry is not None]


def variant_entries(manifest: VariantManifest) -> list[FileEntry]:
    """The files that `variant.json` names."""
    return [entry for entry in (manifest.model, manifest.report) if entry is not None]


def check_policy(repository: Repository, policy: str) -> None:
    """Verifies every file of a policy, and runs its models on its states.

    Raises:
        NotFoundError: there is no such policy.
        CheckFailedError: there is a problem; names the first one.
    """
    problems = find_problems(repository, policy)
    if not repository.variants(policy):
        raise CheckFailedError(f"{policy}: has no variants")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise CheckFailedError(f"{problems[0]}{more}")


def select_policy_files(paths: Iterable[str], where: str) -> list[str]:
    """The paths of a policy among those of a hub's repository, which may also have a card.

    Raises:
        InvalidInputError: a path is neither, or there is no policy.
    """
    found: list[str] = []
    for path in paths:
        if POLICY_FILES.fullmatch(path):
            found.append(path)
        elif not CARD_FILES.fullmatch(path) and path not in HUB_FILES:
            raise InvalidInputError(where, "the files of a policy and its card", repr(path))
    if POLICY_FILE not in found:
        raise InvalidInputError(where, f"a policy, with its {POLICY_FILE}", "a repository without")
    if len(found) > MAX_FILES:
        raise InvalidInputError(where, f"at most {MAX_FILES:,} files", f"{len(found):,}")
    return sorted(found)
