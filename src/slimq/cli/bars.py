"""Progress bars on stderr that commands share."""

from __future__ import annotations

import sys
from typing import Any

_PAUSE, _PAUSE_IN_LOGS = 0.2, 30.0


def drawing_pause() -> float:
    """Seconds between two drawings of a bar: fewer on a terminal than in a log."""
    return _PAUSE if sys.stderr.isatty() else _PAUSE_IN_LOGS


def progress_bar(description: str, total: int, unit: str, /) -> Any:
    """A bar of tqdm on stderr, as `slimq_compression.context.Progress` wants it."""
    from tqdm import tqdm

    pause = drawing_pause()
    return tqdm(
        desc=description,
        total=total,
        unit=unit,
        leave=False,
        file=sys.stderr,
        dynamic_ncols=True,
        mininterval=pause,
        maxinterval=pause,
    )
