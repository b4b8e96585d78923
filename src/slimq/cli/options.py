"""Options shared by several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PoliciesOption = Annotated[
    Path,
    typer.Option("--policies", envvar="SLIMQ_POLICIES", help="Folder of the policy repository."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
UrlOption = Annotated[str, typer.Option("--url", envvar="SLIMQ_URL", help="Address of a service.")]
ApiKeyOption = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="SLIMQ_API_KEY",
        help="API key, if the service requires one. Prefer the environment variable: it does not "
        "show in process lists.",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        help="Threads of torch and of Atari games; 0: all cores.",
        show_default=False,
    ),
]
MaxBytesOption = Annotated[
    str, typer.Option("--max-bytes", help="Limit on disk size, such as 20kB; none by default.")
]
MaxLatencyOption = Annotated[
    str,
    typer.Option(
        "--max-latency",
        help="Limit on a call's time on this machine, such as 0.1ms; none by default.",
    ),
]
RobustOption = Annotated[
    bool,
    typer.Option(
        "--robust/--no-robust",
        help="Publish only variants that are also non-inferior under the standard conditions, or "
        "judge by undisturbed play alone.",
    ),
]

DEFAULT_POLICIES = Path("policies")
DEFAULT_URL = "http://127.0.0.1:8000"
RECIPES = Path("recipes")
"""Folder in which recipes are found by name, and into which a search writes the winners."""
