"""File stamps: metadata that change when a file does."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class FileStamp:
    """Metadata of a file, compared to see whether it was replaced or written to.

    A modification time alone does not tell: it is set by `cp -p`, `rsync -a` and archives, and two
    writes within its resolution share one. The change time cannot be set.

    Attributes:
        device: of the file system.
        inode: of the file.
        size: in bytes.
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
        """The stamp in the result of `stat`."""
        modified, changed = status.st_mtime_ns, status.st_ctime_ns
        return cls(status.st_dev, status.st_ino, status.st_size, modified, changed)
