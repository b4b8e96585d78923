"""Access to files below a root folder, which symbolic links cannot escape.

Each step of a path is opened relative to the previous folder (`openat`), and never through a link.
A link is read and its target walked by the same rules; `..` returns to the previous folder of the
walk. The opened file is therefore below the root whatever is renamed or replaced meanwhile: nothing
is checked under one name and opened under another. Go's `os.Root` works in the same way.

This supports the links of Kubernetes volumes (`policy.json` to `..data/policy.json`, `..data` to a
folder that is replaced) and of git-sync, where the root itself is a link.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from slimq.core.errors import RepositoryError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MAX_LINKS = 40
"""Maximum symbolic links on the way to a file, Linux's own limit; more count as a loop."""
MAX_DEPTH = 64
"""Maximum folders on the way to a file; each takes a descriptor."""
FOLDER_FLAGS = (
    getattr(os, "O_PATH", os.O_RDONLY)
    | getattr(os, "O_DIRECTORY", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
)
ROOT_FLAGS = FOLDER_FLAGS & ~getattr(os, "O_NOFOLLOW", 0)
MAY_BE_LINK = (errno.ELOOP, errno.ENOTDIR, errno.EMLINK)
"""Errors of opening a link without following it; EMLINK is FreeBSD's."""

T = TypeVar("T")
Act = Callable[[str, int | None], T]
"""An operation on a name in an open folder; it fails with ELOOP or ENOTDIR on a symbolic link."""


def display(parts: tuple[str, ...]) -> str:
    """A path as shown in errors: from the repository's root, with forward slashes."""
    return "/".join(parts)


def act_below(root: Path, parts: tuple[str, ...], act: Act[T]) -> T:
    """Performs an operation on a path below the root, through links that stay below it.

    A path that does not exist is retried once: the folder behind a link may have been removed after
    the link was switched.

    Args:
        root: the repository's folder; it may be a link.
        parts: names below it; none for the root itself.
        act: the operation.

    Raises:
        FileNotFoundError: a step does not exist; the caller decides what that means.
        RepositoryError: a part is not a plain name, a link leaves the root or is part of a loop, or
            the operation failed.
    """
    for index, name in enumerate(parts):
        if not NAME.fullmatch(name):
            raise RepositoryError(display(parts[: index + 1]), "is not a plain file name")
    walk = _walk if os.open in os.supports_dir_fd else _refuse_links_and_act
    try:
        return walk(root, parts, act)
    except FileNotFoundError:
        return walk(root, parts, act)


def refuse_links(root: Path, parts: tuple[str, ...]) -> None:
    """Refuses a path that contains a symbolic link; steps may not exist (yet).

    Raises:
        RepositoryError: a part is not a plain name, a step is a link or cannot be examined.
    """
    path = root
    for index, name in enumerate(parts):
        place = display(parts[: index + 1])
        if not NAME.fullmatch(name):
            raise RepositoryError(place, "is not a plain file name")
        path /= name
        try:
            mode = path.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise RepositoryError(place, f"cannot be read: {error.strerror}") from error
        if stat.S_ISLNK(mode):
            raise RepositoryError(place, "is a symbolic link, which this operation does not follow")


def _refuse_links_and_act(root: Path, parts: tuple[str, ...], act: Act[T]) -> T:
    """Replaces `_walk` on systems without `openat` (Windows); refuses all links."""
    refuse_links(root, parts)
    try:
        return act(str(root.joinpath(*parts)), None)
    except OSError as error:
        raise _explained(error, root, parts, len(parts) - 1) from error


def _walk(root: Path, parts: tuple[str, ...], act: Act[T]) -> T:
    steps = [(name, index) for index, name in enumerate(parts)][::-1] or [(".", -1)]
    index, links, folders = -1, 0, list[int]()
    try:
        folders.append(os.open(root, ROOT_FLAGS))
        while True:
            name, index = steps.pop()
            if name == "..":
                if len(folders) == 1:
                    raise _leaves(parts, index)
                os.close(folders.pop())
                name = "."
            try:
                if not steps:
                    return act(name, folders[-1])
                if name != ".":
                    folders.append(os.open(name, FOLDER_FLAGS, dir_fd=folders[-1]))
            except OSError as error:
                target = _target(name, folders[-1], error)
                if target.startswith("/"):
                    while len(folders) > 1:
                        os.close(folders.pop())
                    target = _from_root(target, root)
                links += 1
                found = [step for step in target.split("/") if step not in ("", ".")] or ["."]
                steps += [(step, index) for step in reversed(found)]
            if links > MAX_LINKS or len(folders) > MAX_DEPTH:
                problem = f"{MAX_LINKS} symbolic links or {MAX_DEPTH} folders"
                place = display(parts[: index + 1])
                raise RepositoryError(place, f"leads through more than {problem}")
    except OSError as error:
        raise _explained(error, root, parts, index) from error
    finally:
        for folder in folders:
            os.close(folder)


def _target(name: str, folder: int, error: OSError) -> str:
    """The target of the link that made an operation fail; its own name if it is no longer a link.

    Raises:
        OSError: the operation failed for another reason.
    """
    if error.errno not in MAY_BE_LINK:
        raise error
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError as problem:
        if problem.errno != errno.EINVAL:
            raise
        if error.errno == errno.ENOTDIR:  # a file where a folder is needed
            raise error from None
        return name


def _from_root(target: str, root: Path) -> str:
    """An absolute target as a path from the root; `..` if it is outside the root."""
    for base in (root.absolute(), root.resolve()):
        if Path(target).is_relative_to(base):
            return str(Path(target).relative_to(base))
    return ".."


def _leaves(parts: tuple[str, ...], index: int) -> RepositoryError:
    problem = "is a symbolic link that leaves the repository"
    return RepositoryError(display(parts[: index + 1]), problem)


def _explained(error: OSError, root: Path, parts: tuple[str, ...], index: int) -> Exception:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return FileNotFoundError(error.errno, error.strerror, display(parts))
    place = display(parts[: index + 1]) or str(root)
    return RepositoryError(place, f"cannot be read: {error.strerror}")
