"""uvicorn's WebSocket connection."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

MAX_EARLY_BYTES = 64 * 1024
"""Buffer for frames sent before the WebSocket is accepted, which the protocol does not permit."""


class WebSocketConnection(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket connection, but without parsing frames before the handshake is complete.

    uvicorn fails on malformed frames that arrive earlier, since the connection is not open yet.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._early = bytearray()

    def data_received(self, data: bytes) -> None:
        """Buffers data that arrives too early."""
        if not self.handshake_initiated or self.handshake_complete:
            super().data_received(data)
            return
        self._early += data
        if len(self._early) > MAX_EARLY_BYTES:
            self.transport.abort()

    async def send(self, message: Any) -> None:
        """Parses buffered data once the handshake is complete."""
        await super().send(message)
        if self._early and self.handshake_complete:
            early, self._early = bytes(self._early), bytearray()
            self.data_received(early)
