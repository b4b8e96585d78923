"""Publishes an imported policy whole: with its baseline variant, or not at all.

A new policy is written into a hidden folder beside the others, which is then renamed. A policy that
is replaced gets its old manifest back if its variant cannot be written.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil

from slimq.core.atomic import sync_folder
from slimq.core.errors import InvalidInputError, NotFoundError, RepositoryError, SlimqError
from slimq.core.publish import Publisher
from slimq.core.repository import Repository
from slimq.importing.importer import Prepared

STAGING = ".importing-"
"""Prefix of the hidden folder; readers ignore names that begin with a dot."""


def check_free(repository: Repository, name: str, *, replace: bool) -> None:
    """Checks that a name may be taken.

    Raises:
        InvalidInputError: there is such a policy, which is not to be replaced.
    """
    if repository.has_policy(name) and not replace:
        received = f"{name!r}, which already exists in {repository.root}"
        raise InvalidInputError("--policy", "an unused name, or --replace", received)


def publish(repository: Repository, prepared: Prepared, *, replace: bool = False) -> None:
    """Publishes a policy and its baseline variant.

    Raises:
        InvalidInputError: there is such a policy, which is not to be replaced.
        RepositoryError: writing failed; nothing of the policy remains, or the old one does.
    """
    name = prepared.manifest.name
    check_free(repository, name, replace=replace)
    if (repository.root / name).exists():
        _replace(repository, prepared)
    else:
        _create(repository, prepared)


def _create(repository: Repository, prepared: Prepared) -> None:
    name = prepared.manifest.name
    created = not repository.root.exists()
    staging = repository.root / f"{STAGING}{secrets.token_hex(6)}"
    try:
        publisher = Publisher(Repository(staging))
        publisher.publish_policy(prepared.manifest, prepared.files)
        publisher.publish_variant(prepared.variant, prepared.model)
        (staging / name).rename(repository.root / name)
        sync_folder(repository.root)
    except OSError as error:
        raise RepositoryError(name, f"cannot be published: {error.strerror}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if created and not (repository.root / name).exists():
            with contextlib.suppress(OSError):
                repository.root.rmdir()


def _replace(repository: Repository, prepared: Prepared) -> None:
    publisher = Publisher(repository)
    try:
        old = repository.policy(prepared.manifest.name)
    except NotFoundError:
        old = None
    publisher.publish_policy(prepared.manifest, prepared.files)
    try:
        publisher.publish_variant(prepared.variant, prepared.model)
    except BaseException:
        if old is not None:
            with contextlib.suppress(SlimqError):
                publisher.publish_policy(old, {})
        raise
