"""Exports to the web for tests: served from this machine, and opened in Chromium."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from places import POLICIES, ROOT
from slimq.core.repository import Repository
from slimq_compression.export.options import Options
from slimq_compression.export.targets import export_variant
from slimq_compression.export.web.report import WebReport

PYTHON = ROOT / ".venv-clients" / "bin" / "python"
VISIT = ROOT / "tests" / "slimq_compression" / "export" / "web" / "scripts" / "visit_page.py"
SECONDS = 240
"""For Chromium on a busy machine."""

needs_browser = pytest.mark.skipif(
    not (PYTHON.exists() and shutil.which("chromium")) and "CI" not in os.environ,
    reason="`make slow` sets up the clients, `.ci/need chromium` the browser",
)


def export(policy: str, variant: str, output: Path, policies: Path = POLICIES) -> WebReport:
    """Exports a variant to the web."""
    report: WebReport = export_variant(
        Repository(policies), policy, variant, "web", output, Options()
    )
    return report


class _Quiet(SimpleHTTPRequestHandler):
    """A plain file server; it knows no media type for `.wasm`, as some do not."""

    extensions_map = {  # noqa: RUF012
        **SimpleHTTPRequestHandler.extensions_map,
        ".wasm": "application/octet-stream",
    }

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        pass


@contextlib.contextmanager
def file_server(folder: Path) -> Iterator[str]:
    """A file server on a folder, and its URL."""
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


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
