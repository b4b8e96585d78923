"""Writes a folder completely or not at all."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from slimq.core.atomic import TEMPORARY, naming, sync_folder, sync_tree
from slimq.core.errors import InvalidInputError


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that a command writes, and may replace.

    Attributes:
        name: with its article, such as `an export`.
        sign: what tells it from other folders, such as `its report.json`.
        is_one: whether a folder is of this kind.
    """

    name: str
    sign: str
    is_one: Callable[[Path], bool]

    @property
    def earlier(self) -> str:
        """One that was written before."""
        return f"an earlier {self.name.partition(' ')[2]}"


@contextlib.contextmanager
def staged(output: Path, kind: FolderKind, *, replace: bool = False) -> Iterator[Path]:
    """Yields a new folder that takes the place of `output` if no error is raised.

    Args:
        output: the folder to make.
        kind: what it is to be.
        replace: whether an earlier one of this kind may be replaced.

    Raises:
        InvalidInputError: `output` holds something that must not be replaced.
        OSError: it cannot be written, for example because the disk is full; it names a file.
    """
    check_output(output, kind, replace=replace)
    output.parent.mkdir(parents=True, exist_ok=True)
    made = output.with_name(f"{TEMPORARY}{output.name}-{secrets.token_hex(6)}")
    with naming(output):
        made.mkdir()
    try:
        with _naming_the_unnamed(output):
            yield made
        sync_tree(made)
        check_output(output, kind, replace=replace)  # it may have changed meanwhile
        _take_place(made, output)
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def _naming_the_unnamed(output: Path) -> Iterator[None]:
    """Adds the folder's name to system errors without a file's, such as those of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(output)) from error


def check_output(output: Path, kind: FolderKind, *, replace: bool) -> None:
    """Checks that a folder can be made here.

    Raises:
        InvalidInputError: `output` holds something that must not be replaced.
    """
    if output.is_dir() and not output.is_symlink():
        if not any(output.iterdir()):
            return
        if not kind.is_one(output):
            expected = f"a new or empty folder, or {kind.name} with {kind.sign}"
            raise InvalidInputError("output", expected, f"{output}, which has other files")
        if not replace:
            hint = "; --force replaces it"
            expected = "a new or empty folder"
            raise InvalidInputError("output", expected, f"{output}, {kind.earlier}", hint)
    elif output.exists() or output.is_symlink():
        raise InvalidInputError(
            "output", "a new or empty folder", f"{output}, which is not a folder"
        )


def _take_place(made: Path, output: Path) -> None:
    """Renames the new folder; an old one is moved away first and removed last."""
    if not output.exists():
        made.rename(output)
        sync_folder(output.parent)
        return
    old = output.with_name(f"{TEMPORARY}{output.name}-{secrets.token_hex(6)}")
    output.rename(old)
    try:
        made.rename(output)
    except BaseException:  # Ctrl-C, too
        if not output.exists():
            old.rename(output)
        raise
    sync_folder(output.parent)
    shutil.rmtree(old, ignore_errors=True)
