"""What the supervisor and its workers tell each other."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

START_FAILED = 3
"""The exit status of a start that failed, as uvicorn's own command has it."""
UP = b"u"
"""What a worker sends once it answers."""


@dataclass(frozen=True)
class Orders:
    """What a worker is told.

    Attributes:
        settings: as JSON, with what is secret.
        channel: descriptor of the socket that connections come by; where it ends, no more come.
        table: descriptor of the table of the workers' states.
        folder: of the workers' own sockets and metrics, None where there is none.
        index: which worker it is.
        level: from which records are logged.
    """

    settings: str
    channel: int
    table: int
    folder: str | None
    index: int
    level: int

    def encode(self) -> bytes:
        """One line."""
        return json.dumps(asdict(self)).encode() + b"\n"
