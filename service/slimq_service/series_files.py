"""The files by which workers know of each other's series, and of each other."""

from __future__ import annotations

import json
from pathlib import Path

LIVE_FILE = "workers"
"""In the folder: index and process id of every worker that lives, as `0:4711 1:4712`."""

Entry = tuple[str, tuple[str, ...], int, int]
"""A series in a layout: name, label values, first slot and number of slots."""


def live_workers(folder: Path) -> dict[int, str]:
    """Process ids of the workers that live, by index."""
    try:
        text = (folder / LIVE_FILE).read_text(encoding="ascii")
    except OSError:
        return {}
    pairs = (word.split(":") for word in text.split())
    return {int(index): pid for index, pid in pairs}


def read_layout(path: Path, offset: int) -> tuple[list[Entry], int]:
    """The whole lines behind an offset, and where they end."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read()
    except FileNotFoundError:
        return [], offset
    whole = content[: content.rfind(b"\n") + 1]
    rows = [json.loads(line) for line in whole.splitlines()]
    return [(name, tuple(values), slot, width) for name, values, slot, width in rows], offset + len(
        whole
    )
