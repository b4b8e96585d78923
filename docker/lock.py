"""Pins what the images install, with hashes: `make lock`.

`build.txt` is for building the wheel, `serve.txt` for the service, `load.txt` for the load test,
and `train.txt` for the trainer, with all of slimq. None of them includes torch: its CPU and CUDA
builds come from separate indexes, and the trainer's Dockerfile uses the version in pyproject.toml.
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
"""torch itself, and the dependencies of its CUDA build."""


def resolve(source: str, *options: str) -> str:
    """Resolves a requirements file with uv, and returns the pins as text.

    Raises:
        SystemExit: uv failed; the message has its output.
    """
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "pip", "compile", source, *COMMON, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)  # noqa: S603
    if done.returncode != 0:
        raise SystemExit(f"uv pip compile {source} failed:\n{done.stderr.strip()}")
    return done.stdout


def lock(name: str, source: str, *options: str) -> None:
    """Writes one file; existing pins are kept if they still fit."""
    path = FOLDER / name
    absent = BROUGHT_BY_TORCH.findall(resolve(source, *options))
    left_out = [word for package in absent for word in ("--no-emit-package", package)]
    where = str(path.relative_to(ROOT))
    resolve(source, *options, *left_out, "--generate-hashes", "--output-file", where)


def main() -> None:
    """Writes all four files; with `--upgrade`, with the newest versions."""
    FOLDER.mkdir(exist_ok=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    upgrade = sys.argv[1:]
    backend = FOLDER / "build.in"
    backend.write_text("\n".join(project["build-system"]["requires"]) + "\n", encoding="utf-8")
    try:
        lock("build.txt", str(backend.relative_to(ROOT)), *upgrade)
    finally:
        backend.unlink()
    lock("serve.txt", "pyproject.toml", "--extra", "serve", "--extra", "grpc", *upgrade)
    lock("load.txt", "pyproject.toml", "--extra", "load", *upgrade)
    lock("train.txt", "pyproject.toml", "--extra", "all", *upgrade)


if __name__ == "__main__":
    main()
