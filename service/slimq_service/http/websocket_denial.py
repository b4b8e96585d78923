"""Denies a WebSocket handshake with an HTTP response."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Receive, Scope, Send

from slimq_service.http.responses import Response, send_response

EXTENSION = "websocket.http.response"
DISCONNECT_SECONDS = 1.0


async def deny(scope: Scope, receive: Receive, send: Send, response: Response, code: str) -> None:
    """Sends the response, or closes with `code` if the server does not support responses."""
    if EXTENSION not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": code})
        return
    await send_response(send, response, kind=EXTENSION)
    # uvicorn logs an error if the application returns before the connection is closed (uvicorn
    # #3138). It sends two disconnect messages: when closing, and once the connection is closed.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCONNECT_SECONDS):
            await receive()
            await receive()
