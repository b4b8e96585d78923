"""File stamps: metadata that changes whenever a file does."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class FileStamp:
    """Metadata of a file, for detecting that it was replaced or modified.

    The modification time alone is not enough: `cp -p`, `rsync -a` and archives set it, and two
    writes within its resolution have the same one. The change time cannot be set.

    Attributes:
        device: device of the file system.
        inode: inode of the file.
        size: size in bytes.
        modified: modification time in ns.
        changed: change time (of content or metadata) in ns; on Windows the creation time.
    """

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileStamp:
        """Creates a stamp from the result of `stat`."""
        modified, changed = status.st_mtime_ns, status.st_ctime_ns
        return cls(status.st_dev, status.st_ino, status.st_size, modified, changed)
