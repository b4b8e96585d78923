"""How a stream ends: its label in the metrics, and the close code and reason of the WebSocket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ending:
    """One way to end.

    Attributes:
        label: its name in the metrics.
        code: with which the service closes; None where the other side or the layer below did.
        reason: goes with the code, at most 123 bytes.
    """

    label: str
    code: int | None = None
    reason: str = ""


CLIENT = Ending("client")
LOST = Ending("lost")
PROTOCOL = Ending("protocol")
TOO_LARGE = Ending("too-large")
IDLE = Ending("idle", 4408, "no message for too long")
LAYOUT = Ending("layout", 4409, "the policy's observations have changed; open a new stream")
RESTART = Ending("restart", 1001, "service restarts")
INTERNAL = Ending("internal", 1011, "the service made a mistake; its log has the details")
ENDINGS = (CLIENT, LOST, PROTOCOL, TOO_LARGE, IDLE, LAYOUT, RESTART, INTERNAL)

_BY_CODE = {
    1002: PROTOCOL,
    1005: LOST,
    1006: LOST,
    1007: PROTOCOL,
    1009: TOO_LARGE,
    1012: Ending(RESTART.label),
}


def ending_of(disconnection: Mapping[str, Any]) -> Ending:
    """How a stream ended that somebody else closed, by its close code."""
    return _BY_CODE.get(disconnection.get("code") or 1005, CLIENT)
