"""JSON output of the commands."""

from __future__ import annotations

import json
from typing import Any

import typer


def print_json(value: object) -> None:
    """Prints a dataclass or plain values as indented JSON."""
    typer.echo(json.dumps(to_plain(value), indent=2, ensure_ascii=False))


def to_plain(value: object) -> Any:
    """Converts a dataclass and its contents to plain JSON values."""
    from pydantic import TypeAdapter

    return TypeAdapter(type(value)).dump_python(value, mode="json")
