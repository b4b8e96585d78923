"""The ways a stream ends, with metrics label, close code and reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ending:
    """One way a stream can end.

    Attributes:
        label: label value in the metrics.
        code: close code sent by the service; None if the client or the WebSocket layer closes.
        reason: sent with the code; at most 123 bytes.
    """

    label: str
    code: int | None = None
    reason: str = ""


CLIENT = Ending("client")
LOST = Ending("lost")
PROTOCOL = Ending("protocol")
TOO_LARGE = Ending("too-large")
IDLE = Ending("idle", 4408, "idle for too long")
LAYOUT = Ending("layout", 4409, "the policy's observations have changed; open a new stream")
RESTART = Ending("restart", 1001, "service is restarting")
INTERNAL = Ending("internal", 1011, "internal error; see the service's log")
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
    """The ending of a stream that the service did not close, by its close code."""
    return _BY_CODE.get(disconnection.get("code") or 1005, CLIENT)
