"""Draws the images of docs/page.md: the page of `slimq serve` on the shipped policies, in Chromium.

    python benchmarks/page_images.py FOLDER     writes them to a folder, to be looked at
    python benchmarks/page_images.py --write    replaces those of docs/images

It needs Chromium, the environment `.venv-clients`, and environments for the game. Exits with 1 if
an image has more than `MAX_BYTES`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
VISIT = ROOT / "tests" / "slimq_service" / "api" / "browser" / "visit_page.py"
MAX_BYTES = 150_000
PLOTS = ".plots figure:last-child svg.plot"
POLICY: list[list[Any]] = [["go", "#/policies/pong", PLOTS]]
GAME: list[list[Any]] = [
    ["go", "#/policies/pong/play?variants=fp32,tiny", "#play"],
    ["click", "#play button"],
    ["until", "document.getElementById('step')?.max >= 150"],
    ["click", "#pause"],
    ["fill", "#step", "120"],
    ["click", "#next"],
]
PICTURES: dict[str, dict[str, Any]] = {
    "page-policy.png": {"steps": POLICY, "height": 860},
    "page-play.png": {"steps": GAME, "height": 1130},
    "page-small.png": {"steps": POLICY, "width": 390, "height": 980, "scheme": "dark"},
}


@contextmanager
def service() -> Iterator[str]:
    """Serves the shipped policies; gives the URL."""
    command = [sys.executable, "-m", "slimq.cli.main", "serve", "--port", "0"]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            [*command, "--policies", str(ROOT / "policies")],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            yield (process.stdout.readline() if process.stdout else "").split(" at ")[1].strip()
        finally:
            process.terminate()


def draw(url: str, path: Path, picture: dict[str, Any]) -> int:
    """Draws a picture; returns its bytes.

    Raises:
        CalledProcessError: Chromium did not come that far.
    """
    steps = [*picture["steps"], ["screenshot", str(path)]]
    request = json.dumps({**picture, "url": url, "steps": steps})
    subprocess.run(
        [str(PYTHON), str(VISIT)], input=request, text=True, check=True, stdout=subprocess.DEVNULL
    )
    return path.stat().st_size


def main() -> int:
    """Draws all of them; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("folder", nargs="?", type=Path)
    where.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    folder = IMAGES if arguments.write else arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    with service() as url:
        sizes = {name: draw(url, folder / name, picture) for name, picture in PICTURES.items()}
    for name, size in sizes.items():
        sys.stdout.write(f"{name}: {size:,} bytes\n")
    return int(any(size > MAX_BYTES for size in sizes.values()))


if __name__ == "__main__":
    sys.exit(main())
