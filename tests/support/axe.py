"""axe-core (MPL-2.0), which finds barriers in pages: fetched once by npm, checked by hash.

It only runs in tests, in the browser; nothing of it is part of slimq.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from slimq.core.atomic import write_atomically
from slimq.core.user_cache import user_cache_folder

PACKAGE, VERSION = "axe-core", "4.14.1"
MEMBER = "package/axe.min.js"
SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"


def require_axe() -> Path:
    """The script; skips the test where it is not cached and nothing can fetch it, except in CI."""
    kept = user_cache_folder() / f"{PACKAGE}-{VERSION}" / "axe.min.js"
    if not kept.exists():
        if shutil.which("npm") is None and "CI" not in os.environ:
            pytest.skip("`.ci/need npm` installs npm, which fetches axe-core")
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, _fetch())
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == SHA256, kept
    return kept


def _fetch() -> bytes:
    with tempfile.TemporaryDirectory() as work:
        command = ["npm", "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", work]
        subprocess.run(command, cwd=work, check=True, capture_output=True, timeout=600)
        (tarball,) = Path(work).glob("*.tgz")
        with tarfile.open(tarball) as archive:
            member = archive.extractfile(MEMBER)
            assert member is not None
            return member.read()
