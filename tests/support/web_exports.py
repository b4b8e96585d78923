"""Exports to the web for tests, opened in Chromium."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from places import POLICIES
from slimq.core.repository import Repository
from slimq.core.user_cache import user_cache_folder
from slimq_compression.export.options import Options
from slimq_compression.export.targets import export_variant
from slimq_compression.export.web.report import WebReport
from slimq_compression.export.web.runtime import PACKAGE, VERSION
from web import PYTHON, VISIT

SECONDS = 240
"""For Chromium on a busy machine."""

needs_browser = pytest.mark.skipif(
    not (PYTHON.exists() and shutil.which("chromium")) and "CI" not in os.environ,
    reason="`make slow` sets up the clients, `.ci/need chromium` the browser",
)


def require_runtime() -> None:
    """Skips a test where ONNX Runtime Web is not cached and nothing can fetch it, except in CI."""
    kept = user_cache_folder() / f"{PACKAGE}-{VERSION}"
    if not kept.exists() and shutil.which("npm") is None and "CI" not in os.environ:
        pytest.skip("`.ci/need npm` installs npm, which fetches ONNX Runtime Web")


def export(policy: str, variant: str, output: Path, policies: Path = POLICIES) -> WebReport:
    """Exports a variant to the web."""
    require_runtime()
    report: WebReport = export_variant(
        Repository(policies), policy, variant, "web", output, Options()
    )
    return report


def visit(url: str, *steps: str, **settings: Any) -> dict[str, Any]:
    """What Chromium finds; steps and settings are those of `visit_page.py`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    request = {"url": url, "steps": steps, "seconds": SECONDS, **settings}
    done = subprocess.run(
        [PYTHON, VISIT],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=SECONDS * 2,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))
