"""Measures how soon exported pages act, for each policy's smallest and full variant, in Chromium.

    python benchmarks/web.py                          prints a table
    python benchmarks/web.py --write                  replaces that of docs/devices.md
    python benchmarks/web.py --policy pong --variant fastest

Each variant is exported, served by a plain file server on this machine, and opened `--rounds` times
in a fresh profile without a network. The time is from the start of the page load to the first
action, as reported by the page itself. Exits with 1 if a median is above `LIMIT_MS`. Needs Chromium
and the environment `.venv-clients`. The load of the machine, on which times depend, is stated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pages import write_sections
from slimq.core.errors import SlimqError
from slimq.core.repository import Repository
from slimq.core.text_tables import markdown_table
from slimq.core.threads import available_cores
from slimq.evaluation.latency import processor_name
from slimq_compression.export.options import Options
from slimq_compression.export.targets import export_variant
from slimq_compression.export.web.report import WebReport

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "devices.md"
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
VISIT = ROOT / "tests" / "slimq_compression" / "export" / "web" / "scripts" / "visit_page.py"
LIMIT_MS = 2000
SECONDS = 300
HEAD = ("policy", "variant", "model, bytes", "recording, bytes", "median, ms", "fastest, ms")


class QuietHandler(SimpleHTTPRequestHandler):
    """A file server without a log and without the media type of `.wasm`, like some servers."""

    extensions_map = {  # noqa: RUF012 - as in its base
        **SimpleHTTPRequestHandler.extensions_map,
        ".wasm": "application/octet-stream",
    }

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Logs nothing."""


@contextmanager
def file_server(folder: Path) -> Iterator[str]:
    """Serves a folder; yields its URL."""
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def first_action_ms(url: str) -> float:
    """Milliseconds from the start of a page's load to its first action.

    Raises:
        CalledProcessError: Chromium failed before that.
        ValueError: the page reports an error.
    """
    request = json.dumps({"url": url, "steps": ["play", "texts"], "seconds": SECONDS})
    command = [str(PYTHON), str(VISIT)]
    done = subprocess.run(command, input=request, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    if found["first_action_ms"] is None:
        raise ValueError(found["texts"]["status-text"])
    return float(found["first_action_ms"])


def measure(
    repository: Repository, policy: str, variant: str, rounds: int
) -> tuple[WebReport, list[float]]:
    """Exports a variant and opens its page `rounds` times; returns the times in ms."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "export"
        report: WebReport = export_variant(repository, policy, variant, "web", folder, Options())
        with file_server(folder) as url:
            return report, [first_action_ms(url) for _ in range(rounds)]


def subjects_of(
    repository: Repository, policies: Sequence[str], variant: str | None
) -> Iterator[tuple[str, str]]:
    """Yields policies with the given variant, or with their smallest and full ones."""
    for policy in policies or repository.policies():
        full = repository.policy(policy).baseline_variant
        sizes = {
            name: repository.variant(policy, name).model.bytes
            for name in repository.variants(policy)
        }
        smallest = min(sizes, key=lambda name: sizes[name])
        for name in [variant] if variant else dict.fromkeys([smallest, full]):
            yield policy, name


def measure_sections(
    repository: Repository, subjects: Sequence[tuple[str, str]], rounds: int, slow: list[str]
) -> dict[str, str]:
    """The generated part of the page, by the name in its markers; adds slow variants to `slow`."""
    lines: list[Sequence[str]] = [HEAD]
    busy = os.getloadavg()[0]
    for policy, variant in subjects:
        report, times = measure(repository, policy, variant, rounds)
        median = statistics.median(times)
        if median > LIMIT_MS:
            slow.append(f"{policy}/{variant}: {median:,.0f} ms")
        sizes = f"{report.model.bytes:,}", f"{report.episode.bytes:,}"
        figures = f"{median:,.0f}", f"{min(times):,.0f}"
        lines.append((f"`{policy}`", f"`{variant}`", *sizes, *figures))
    chromium = subprocess.run(["chromium", "--version"], capture_output=True, text=True, check=True)
    browser = " ".join(chromium.stdout.split()[:2])
    machine = f"{available_cores()} cores ({processor_name()}) with a load average of {busy:.1f}"
    note = f"Each page was opened {rounds} times in {browser}, on {machine}."
    return {"web": f"{markdown_table(lines, 2)}\n\n{note}"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints or writes the table; exits with 1 if a page is too slow or does not play."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--policies", type=Path, default=ROOT / "policies")
    parser.add_argument("--policy", action="append", default=[], help="only this; may be repeated")
    parser.add_argument("--variant", help="only this, instead of the smallest and the full one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--write", action="store_true", help="replace the table of the page")
    options = parser.parse_args(arguments)
    slow: list[str] = []
    try:
        repository = Repository(options.policies)
        subjects = [*subjects_of(repository, options.policy, options.variant)]
        parts = measure_sections(repository, subjects, options.rounds, slow)
        if options.write:
            page = options.page.read_text(encoding="utf-8")
            options.page.write_text(write_sections(page, parts), encoding="utf-8")
        else:
            print(parts["web"])
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().splitlines()
        sys.exit(f"web.py: Chromium: {reason[-1] if reason else error}")
    except (SlimqError, ValueError, OSError) as error:
        sys.exit(f"web.py: {error}")
    if slow:
        sys.exit(f"web.py: the first action took more than {LIMIT_MS:,} ms: {'; '.join(slow)}")


if __name__ == "__main__":
    main()
