"""Pins what the images install, with hashes: `make lock`.

`build.txt` is what makes the wheel, `serve.txt` the service, `load.txt` the load test, and
`train.txt` all of slimq for the trainer. torch is in none of them: its builds for the processor and
for CUDA come from places of their own, and the trainer's Dockerfile takes the version that
pyproject.toml names.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docker" / "requirements"
COMMON = (
    *("--quiet", "--no-annotate", "--custom-compile-command", "make lock"),
    *("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"),
    *("--only-binary", ":all:"),
)
BROUGHT_BY_TORCH = re.compile(r"^(torch|triton|cuda-[a-z0-9-]+|nvidia-[a-z0-9-]+)==", re.MULTILINE)
"""torch itself, and what only a build of it for CUDA asks for."""


def resolve(source: str, *options: str) -> str:
    """What uv makes of a file of requirements, as text.

    Raises:
        SystemExit: uv refuses; with what it says.
    """
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "pip", "compile", source, *COMMON, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)  # noqa: S603
    if done.returncode != 0:
        raise SystemExit(f"uv pip compile {source} failed:\n{done.stderr.strip()}")
    return done.stdout


def lock(name: str, source: str, *options: str) -> None:
    """Writes one file; pins that are there already stay, as far as they still fit."""
    path = FOLDER / name
    absent = BROUGHT_BY_TORCH.findall(resolve(source, *options))
    left_out = [word for package in absent for word in ("--no-emit-package", package)]
    where = str(path.relative_to(ROOT))
    resolve(source, *options, *left_out, "--generate-hashes", "--output-file", where)


def main() -> None:
    """All four; with `--upgrade` the newest versions."""
    FOLDER.mkdir(exist_ok=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    upgrade = sys.argv[1:]
    backend = FOLDER / "build.in"
    backend.write_text("\n".join(project["build-system"]["requires"]) + "\n", encoding="utf-8")
    try:
        lock("build.txt", str(backend.relative_to(ROOT)), *upgrade)
    finally:
        backend.unlink()
    lock("serve.txt", "pyproject.toml", "--extra", "serve", *upgrade)
    lock("load.txt", "pyproject.toml", "--extra", "load", *upgrade)
    lock("train.txt", "pyproject.toml", "--extra", "all", *upgrade)


if __name__ == "__main__":
    main()
