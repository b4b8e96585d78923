"""uvicorn's WebSocket connection."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

MAX_EARLY_BYTES = 64 * 1024
"""Frames that a client may send before its WebSocket is accepted; by the protocol it sends none."""


class WebSocketConnection(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, which reads no frame before the handshake is answered.

    Where one arrives earlier and is malformed, uvicorn's trips over a connection that is not open.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._early = bytearray()

    def data_received(self, data: bytes) -> None:
        """Keeps what comes too early."""
        if not self.handshake_initiated or self.handshake_complete:
            super().data_received(data)
            return
        self._early += data
        if len(self._early) > MAX_EARLY_BYTES:
            self.transport.abort()

    async def send(self, message: Any) -> None:
        """Reads what came too early once the handshake is answered."""
        await super().send(message)
        if self._early and self.handshake_complete:
            early, self._early = bytes(self._early), bytearray()
            self.data_received(early)
