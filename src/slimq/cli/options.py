"""Options that several commands share, so that they are spelled and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PoliciesOption = Annotated[
    Path,
    typer.Option("--policies", envvar="SLIMQ_POLICIES", help="The repository of policies."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
UrlOption = Annotated[str, typer.Option("--url", envvar="SLIMQ_URL", help="Address of a service.")]
ApiKeyOption = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="SLIMQ_API_KEY",
        help="Key of a service that asks for one; better given as a variable, which no list of "
        "processes shows.",
    ),
]

DEFAULT_POLICIES = Path("policies")
DEFAULT_URL = "http://127.0.0.1:8000"
RECIPES = Path("recipes")
"""Where recipes are found by their names, and where a search leaves those of its winners."""
