"""Measures how soon exported pages act: the default variant of every policy, in Chromium.

    python benchmarks/web.py                          prints a table
    python benchmarks/web.py --policy pong --variant tiny

Each variant is exported, served by a plain file server on this machine, and opened `--rounds` times
in a fresh profile without a network. The time is from the beginning of the page's load to its first
action, as the page itself reports it. Exits with 1 if a median is above `LIMIT_MS`. It needs
Chromium and the environment `.venv-clients`; on a busy machine the times are those of that machine.
"""

from __future__ import annotations

import argparse
import json
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

from slimq.core.errors import SlimqError
from slimq.core.repository import Repository
from slimq.core.text_tables import markdown_table
from slimq_compression.export.options import Options
from slimq_compression.export.targets import export_variant
from slimq_compression.export.web.report import WebReport

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
VISIT = ROOT / "tests" / "slimq_compression" / "export" / "web" / "scripts" / "visit_page.py"
LIMIT_MS = 2000
SECONDS = 300
HEAD = (
    "policy",
    "variant",
    "model, bytes",
    "recording, bytes",
    "first action, ms",
    "of all rounds",
)


class QuietHandler(SimpleHTTPRequestHandler):
    """A file server without a log, and without a media type for `.wasm`, which some lack."""

    extensions_map = {  # noqa: RUF012 - as in its base
        **SimpleHTTPRequestHandler.extensions_map,
        ".wasm": "application/octet-stream",
    }

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Says nothing."""


@contextmanager
def file_server(folder: Path) -> Iterator[str]:
    """Serves a folder; gives its URL."""
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
    """Milliseconds from the beginning of a page's load to its first action.

    Raises:
        CalledProcessError: Chromium did not come that far.
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
    """Exports a variant and opens its page some times."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "export"
        report: WebReport = export_variant(repository, policy, variant, "web", folder, Options())
        with file_server(folder) as url:
            return report, [first_action_ms(url) for _ in range(rounds)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table; exits with 1 if a page is too slow or does not play."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--policies", type=Path, default=ROOT / "policies")
    parser.add_argument("--policy", action="append", help="one policy; may be repeated")
    parser.add_argument("--variant", help="by default each policy's default variant")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    repository = Repository(options.policies)
    lines: list[Sequence[str]] = [HEAD]
    slow = []
    try:
        for policy in options.policy or repository.policies():
            variant = options.variant or repository.policy(policy).default_variant
            report, times = measure(repository, policy, variant, options.rounds)
            median = statistics.median(times)
            if median > LIMIT_MS:
                slow.append(f"{policy}/{variant}: {median:,.0f} ms")
            lines.append(
                (
                    f"`{policy}`",
                    f"`{variant}`",
                    f"{report.model.bytes:,}",
                    f"{report.episode.bytes:,}",
                    f"{median:,.0f}",
                    ", ".join(f"{time:,.0f}" for time in times),
                )
            )
    except (SlimqError, ValueError, OSError) as error:
        sys.exit(f"web.py: {error}")
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().splitlines()
        sys.exit(f"web.py: Chromium: {reason[-1] if reason else error}")
    print(markdown_table(lines, 2))
    if slow:
        sys.exit(f"web.py: the first action took more than {LIMIT_MS:,} ms: {'; '.join(slow)}")


if __name__ == "__main__":
    main()
