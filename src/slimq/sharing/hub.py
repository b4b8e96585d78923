"""Pushes policies to a model hub and pulls them from there, by `huggingface_hub`.

A push is one commit, a pull takes all files from one commit: neither mixes two states. The token is
taken from the environment alone, so that it shows neither in process lists nor in shell histories.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimq.core.errors import InvalidInputError, ServiceError, first_line
from slimq.core.repository import POLICY_FILE, Repository
from slimq.sharing.arrival import check_free, publish_arrival, read_name, staging_folder
from slimq.sharing.bundle import (
    HUB_FILES,
    POLICY_FILES,
    check_policy,
    policy_files,
    select_policy_files,
)
from slimq.sharing.card import CARD_FILES
from slimq.sharing.hub_names import check_repo_id

TOKEN = "HF_TOKEN"  # noqa: S105 - the name of the variable
DEFAULT_ENDPOINT = "https://huggingface.co"
MAIN = "main"


@dataclass(frozen=True)
class Place:
    """Where a policy is on a hub.

    Attributes:
        repo_id: name of the repository, such as `user/pong`.
        endpoint: address of the hub.
        revision: branch, tag or commit; None for the main branch.
    """

    repo_id: str
    endpoint: str = DEFAULT_ENDPOINT
    revision: str | None = None

    def check(self) -> None:
        """Checks the name and the address.

        Raises:
            InvalidInputError: one of them is not valid.
        """
        check_repo_id(self.repo_id)
        address = urllib.parse.urlsplit(self.endpoint)
        if address.scheme not in ("http", "https") or not address.hostname:
            expected = "an address such as https://huggingface.co"
            raise InvalidInputError("--endpoint", expected, repr(self.endpoint))
        if self.revision is not None and not self.revision.strip():
            raise InvalidInputError("--revision", "a branch, a tag or a commit", "an empty text")


@dataclass(frozen=True)
class Pushed:
    """A push that was committed.

    Attributes:
        policy: its name.
        url: address of the repository.
        commit: its identifier.
        files: number of files.
        bytes: their size.
        removed: files of an earlier push that are no longer part of the policy.
    """

    policy: str
    url: str
    commit: str
    files: int
    bytes: int
    removed: int


@dataclass(frozen=True)
class Pulled:
    """A policy that was pulled and published.

    Attributes:
        policy: its name here.
        original: its name on the hub.
        commit: identifier of the commit that it comes from.
        files: number of files.
        bytes: their size.
        variants: its variants.
    """

    policy: str
    original: str
    commit: str
    files: int
    bytes: int
    variants: list[str]


def push(
    repository: Repository,
    policy: str,
    place: Place,
    card: Path,
    *,
    private: bool = False,
    replace: bool = False,
) -> Pushed:
    """Uploads a policy and its card in one commit, after verifying it.

    Args:
        repository: of the policy.
        policy: its name.
        place: where it goes; the repository is made if there is none.
        card: folder with the card.
        private: whether a new repository is private.
        replace: whether another policy may be there.

    Raises:
        NotFoundError: there is no such policy.
        CheckFailedError: the policy has a problem.
        InvalidInputError: a name is not valid, or the repository has other files.
        ServiceError: the hub refuses, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    place.check()
    check_policy(repository, policy)
    files = policy_files(repository, policy)
    for path in sorted(card.rglob("*")):
        if path.is_file():
            files[path.relative_to(card).as_posix()] = path.read_bytes()
    revision = place.revision or MAIN
    api = _client(place)
    with hub_errors(place):
        api.create_repo(place.repo_id, private=private or None, exist_ok=True)
        info = api.model_info(place.repo_id, revision=revision)
        if private and not info.private:
            received = f"{place.repo_id}, which is public"
            raise InvalidInputError("--private", "a private repository", received)
        present = {sibling.rfilename for sibling in info.siblings or ()}
        _check_target(api, place, policy, present, info.sha, replace=replace)
        gone = sorted(present - files.keys() - HUB_FILES)
        operations: list[Any] = [CommitOperationDelete(path) for path in gone]
        operations += [CommitOperationAdd(path, content) for path, content in files.items()]
        commit = api.create_commit(
            place.repo_id,
            operations,
            commit_message=f"Publish {policy}",
            revision=revision,
            parent_commit=info.sha,
        )
    url = f"{place.endpoint.rstrip('/')}/{place.repo_id}"
    size = sum(map(len, files.values()))
    return Pushed(policy, url, str(commit.oid), len(files), size, len(gone))


def pull(
    repository: Repository,
    place: Place,
    name: str | None,
    *,
    replace: bool = False,
    on_file: Callable[[int, int], None] | None = None,
) -> Pulled:
    """Downloads a policy, verifies it and publishes it.

    Args:
        repository: where it goes.
        place: where it comes from.
        name: the name that it gets; None for its own.
        replace: whether it may take the place of another policy.
        on_file: called after each file with the number of files so far, and of all.

    Raises:
        InvalidInputError: a name is not valid or taken, or the repository has other files.
        CheckFailedError: the policy has a problem; nothing is published.
        RepositoryError: its manifest is invalid, or writing failed.
        ServiceError: the hub refuses, or cannot be reached.
    """
    place.check()
    if name is not None:
        check_free(repository, name, replace=replace)
    api = _client(place)
    with staging_folder(repository) as staging:
        downloads = staging / "downloads"
        with hub_errors(place):
            info = api.model_info(place.repo_id, revision=place.revision or MAIN)
            commit = str(info.sha)
            siblings = [sibling.rfilename for sibling in info.siblings or ()]
            paths = select_policy_files(siblings, place.repo_id)
            # The manifest first: a name that is taken ends a pull before the models are fetched.
            paths.sort(key=lambda path: path != POLICY_FILE)
            original = None
            for index, path in enumerate(paths, start=1):
                stored = api.hf_hub_download(
                    place.repo_id, path, revision=commit, local_dir=downloads
                )
                if original is None:
                    original = read_name(Path(stored).read_bytes())
                    check_free(repository, name or original, replace=replace)
                if on_file is not None:
                    on_file(index, len(paths))
        shutil.rmtree(downloads / ".cache", ignore_errors=True)
        original = original or ""
        downloads.rename(staging / original)
        size = sum(
            path.stat().st_size for path in (staging / original).rglob("*") if path.is_file()
        )
        publish_arrival(repository, staging, original, name or original, replace=replace)
    own = name or original
    return Pulled(own, original, commit, len(paths), size, repository.variants(own))


@contextlib.contextmanager
def hub_errors(place: Place) -> Iterator[None]:
    """Turns the errors of a hub into one line each.

    Raises:
        ServiceError: the hub refuses, or cannot be reached.
    """
    import httpx2
    from huggingface_hub import errors

    endpoint, repo_id = place.endpoint, place.repo_id
    try:
        yield
    except errors.GatedRepoError as error:
        problem = f"{repo_id} asks for consent, which its page on the hub takes; set {TOKEN}"
        raise ServiceError(endpoint, _status(error), problem) from error
    except errors.RevisionNotFoundError as error:
        problem = f"{repo_id} has no revision {place.revision or MAIN!r}"
        raise ServiceError(endpoint, _status(error), problem) from error
    except errors.RepositoryNotFoundError as error:
        given = "with this token" if os.environ.get(TOKEN) else f"without a token in {TOKEN}"
        problem = f"there is no repository {repo_id}, or it is not to be seen {given}"
        raise ServiceError(endpoint, _status(error), problem) from error
    except errors.HfHubHTTPError as error:
        status = _status(error)
        said = error.server_message or first_line(error)
        remedies = {401: f"; set a valid token in {TOKEN}", 403: f"; check the token in {TOKEN}"}
        problem = f"{first_line(ValueError(said))}{remedies.get(status or 0, '')}"
        raise ServiceError(endpoint, status, problem) from error
    except (errors.LocalEntryNotFoundError, httpx2.HTTPError, ConnectionError) as error:
        cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
        problem = (
            f"cannot be reached: {first_line(cause if isinstance(cause, Exception) else error)}"
        )
        raise ServiceError(endpoint, None, problem) from error
    except (errors.FileMetadataError, ValueError) as error:
        raise ServiceError(endpoint, None, " ".join(str(error).split())) from error
    except RuntimeError as error:
        # An upload that fails in one of its threads.
        cause = error.__cause__
        if not isinstance(cause, (errors.HfHubHTTPError, httpx2.HTTPError)):
            raise
        problem = f"{first_line(error)} {first_line(cause)}"
        raise ServiceError(endpoint, _status(cause), problem) from error


def _client(place: Place) -> Any:
    from huggingface_hub import HfApi

    # Without a token in the environment none is sent, not even one that was saved on this machine.
    token = os.environ.get(TOKEN) or False
    return HfApi(endpoint=place.endpoint.rstrip("/"), token=token, library_name="slimq")


def _check_target(
    api: Any, place: Place, policy: str, present: set[str], commit: str, *, replace: bool
) -> None:
    """Refuses a repository with other files, or with another policy that is not to be replaced."""
    for path in sorted(present - HUB_FILES):
        if not POLICY_FILES.fullmatch(path) and not CARD_FILES.fullmatch(path):
            expected = "an empty repository, or one with a policy and its card"
            raise InvalidInputError(place.repo_id, expected, f"one with {path!r}")
    if POLICY_FILE not in present or replace:
        return
    with _scratch() as folder:
        stored = api.hf_hub_download(place.repo_id, POLICY_FILE, revision=commit, local_dir=folder)
        there = read_name(Path(stored).read_bytes())
    if there != policy:
        received = f"one with {there}; --force replaces it"
        raise InvalidInputError(place.repo_id, f"a repository for {policy}", received)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="slimq-hub-") as folder:
        yield Path(folder)


def _status(error: Any) -> int | None:
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)
