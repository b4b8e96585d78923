"""Progress bars on stderr, shared by the commands."""

from __future__ import annotations

import sys
from typing import Any

_REDRAW_SECONDS, _LOG_REDRAW_SECONDS = 0.2, 30.0


def redraw_seconds() -> float:
    """Seconds between updates of a bar: short on a terminal, longer in a log."""
    return _REDRAW_SECONDS if sys.stderr.isatty() else _LOG_REDRAW_SECONDS


def progress_bar(description: str, total: int, unit: str, /) -> Any:
    """Creates a tqdm bar on stderr; implements `slimq_compression.context.Progress`."""
    from tqdm import tqdm

    seconds = redraw_seconds()
    return tqdm(
        desc=description,
        total=total,
        unit=unit,
        leave=False,
        file=sys.stderr,
        dynamic_ncols=True,
        mininterval=seconds,
        maxinterval=seconds,
    )
