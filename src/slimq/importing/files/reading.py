"""Reads files and zip archives, with limits on what they may unpack to."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from slimq.core.errors import first_line
from slimq.importing.source import refuse

MAX_FILE_BYTES = 2 << 30
MAX_MEMBER_BYTES = 1 << 30
"""Of one uncompressed member of an archive."""
MAX_RATIO, RATIO_FROM = 64, 16 << 20
"""A larger member may not be this many times its compressed size: weights hardly compress."""


def read_file(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        InvalidInputError: it is empty, too large, no file, or cannot be read.
    """
    try:
        if path.is_dir():
            raise refuse(str(path), "a file", "a folder")
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise refuse(str(path), f"at most {MAX_FILE_BYTES:,} bytes", f"{size:,}")
        content = path.read_bytes()
    except OSError as error:
        raise refuse(str(path), "a readable file", error.strerror or "an error") from error
    if not content:
        raise refuse(str(path), "a policy", "an empty file", "download or copy it again")
    return content


def open_archive(content: bytes, name: str) -> zipfile.ZipFile:
    """Opens a zip archive.

    Raises:
        InvalidInputError: it is none, or is damaged.
    """
    try:
        return zipfile.ZipFile(io.BytesIO(content))
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        received = f"a damaged archive ({first_line(error)})"
        raise refuse(
            name, "a complete zip archive", received, "download or copy it again"
        ) from error


def read_member(archive: zipfile.ZipFile, member: str, name: str) -> bytes:
    """The uncompressed bytes of a member.

    Raises:
        InvalidInputError: it is missing, damaged, encrypted, or unpacks to too much.
    """
    try:
        info = archive.getinfo(member)
    except KeyError:
        listing = ", ".join(archive.namelist()[:8]) or "nothing"
        raise refuse(name, f"an archive with {member!r}", f"one with {listing}") from None
    check_size(info, name)
    try:
        return archive.read(info)
    except Exception as error:  # zlib, lzma and zipfile raise errors without a common base class
        received = f"{member!r} damaged ({first_line(error)})"
        remedy = "download or copy it again"
        raise refuse(name, "a complete zip archive", received, remedy) from error


def check_size(info: zipfile.ZipInfo, name: str) -> None:
    """Checks what a member unpacks to.

    Raises:
        InvalidInputError: it is too large, of itself or for its compressed size.
    """
    size, stored = info.file_size, max(info.compress_size, 1)
    if size > MAX_MEMBER_BYTES or (size > RATIO_FROM and size > MAX_RATIO * stored):
        expected = f"members of at most {MAX_MEMBER_BYTES:,} bytes and {MAX_RATIO} times their file"
        raise refuse(name, expected, f"{info.filename!r} of {size:,} bytes in {stored:,}")
