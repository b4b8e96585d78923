"""A policy that arrives from elsewhere: verified first, then published whole or not at all."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from slimq.core.atomic import publishing, sync_folder, sync_tree
from slimq.core.errors import CheckFailedError, InvalidInputError, RepositoryError
from slimq.core.manifest import PolicyManifest
from slimq.core.publish import Publisher
from slimq.core.repository import POLICY_FILE, Repository, parse
from slimq.sharing.bundle import check_policy, policy_entries, policy_files

STAGING = ".pulling-"
"""Prefix of the hidden folder; readers ignore names that begin with a dot."""


def check_free(repository: Repository, name: str, *, replace: bool) -> None:
    """Checks that a name may be taken.

    Raises:
        InvalidInputError: there is such a policy, which is not to be replaced.
    """
    if (repository.root / name).exists() and not replace:
        received = f"{name!r}, which already exists in {repository.root}"
        raise InvalidInputError("--policy", "an unused name, or --force", received)


@contextlib.contextmanager
def staging_folder(repository: Repository) -> Iterator[Path]:
    """Yields a hidden folder on the repository's disk, which is removed in the end."""
    created = not repository.root.exists()
    repository.root.mkdir(parents=True, exist_ok=True)
    folder = repository.root / f"{STAGING}{secrets.token_hex(6)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if created:
            with contextlib.suppress(OSError):
                repository.root.rmdir()


def read_name(content: bytes) -> str:
    """The name of a policy, from the bytes of its `policy.json`.

    Raises:
        RepositoryError: the manifest is invalid.
    """
    return parse(content, PolicyManifest, POLICY_FILE).name


def publish_arrival(
    repository: Repository, staging: Path, arrived: str, name: str, *, replace: bool
) -> None:
    """Verifies a policy in a staging folder and moves it into the repository.

    Args:
        repository: where it is published.
        staging: a folder on the same disk, of which it is the only policy.
        arrived: its own name.
        name: the name that it gets here; its files stay as they are if that is its own.
        replace: whether it may take the place of another policy of this name.

    Raises:
        CheckFailedError: it has a problem, or a file that its manifests do not name.
        InvalidInputError: there is such a policy, which is not to be replaced.
        RepositoryError: writing failed; nothing of the policy remains, or the old one does.
    """
    source = Repository(staging)
    check_policy(source, arrived)
    _refuse_unnamed(source, arrived)
    if name != arrived:
        _rename(source, arrived, name)
    check_free(repository, name, replace=replace)
    try:
        sync_tree(staging / name)
        if (repository.root / name).exists():
            _take_place(repository, staging, name)
        else:
            (staging / name).rename(repository.root / name)
        sync_folder(repository.root)
    except OSError as error:
        raise RepositoryError(name, f"cannot be published: {error.strerror}") from error


def _refuse_unnamed(source: Repository, policy: str) -> None:
    folder = source.root / policy
    named = policy_files(source, policy).keys()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if (path.is_symlink() or not path.is_dir()) and relative not in named:
            raise CheckFailedError(f"{policy}/{relative}: is named by no manifest")


def _rename(source: Repository, arrived: str, name: str) -> None:
    """Publishes the policy again under another name, beside the one that arrived."""
    manifest, publisher = source.policy(arrived), Publisher(source)
    files = {entry.path: source.read_file(arrived, entry) for entry in policy_entries(manifest)}
    publisher.publish_policy(manifest.model_copy(update={"name": name}), files)
    stored = policy_files(source, arrived)
    for variant in source.variants(arrived):
        found, report = source.variant(arrived, variant), source.report(arrived, variant)
        model = stored[f"variants/{variant}/{found.model.path}"]
        publisher.publish_variant(found.model_copy(update={"policy": name, "report": None}), model)
        if report is not None:
            renamed = report.model_copy(update={"policy": name})
            publisher.attach_report(name, variant, renamed)


def _take_place(repository: Repository, staging: Path, name: str) -> None:
    """Moves the old policy away and the new one there, and the old one back if that fails."""
    old = staging / ".replaced"  # no policy has such a name
    with publishing(repository.root, (name,)):
        (repository.root / name).rename(old)
        try:
            (staging / name).rename(repository.root / name)
        except BaseException:  # Ctrl-C, too
            if not (repository.root / name).exists():
                old.rename(repository.root / name)
            raise
