"""Names of repositories on a model hub."""

from __future__ import annotations

import re

from slimq.core.errors import InvalidInputError

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_REPO_ID = re.compile(rf"{_PART}/{_PART}")


def check_repo_id(repo_id: str) -> None:
    """Checks the name of a repository.

    Raises:
        InvalidInputError: it is not of the form `user/name`.
    """
    if not _REPO_ID.fullmatch(repo_id) or "--" in repo_id or ".." in repo_id:
        raise InvalidInputError("REPO_ID", "a name such as user/pong", repr(repo_id))
