"""The user's cache folder, for files that can be fetched or made again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

OVERRIDE = "SLIMQ_CACHE_DIR"
"""Environment variable that overrides the folder."""


def user_cache_folder() -> Path:
    """Slimq's cache folder by the operating system's conventions; it may not exist yet."""
    if own := os.environ.get(OVERRIDE):
        return Path(own)
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
        return base / "slimq" / "Cache"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "slimq"
    # Relative paths must be ignored (XDG Base Directory Specification).
    found = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (found if found.is_absolute() else home / ".cache") / "slimq"
