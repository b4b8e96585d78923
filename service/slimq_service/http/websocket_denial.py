"""Denies a WebSocket with an HTTP response, before it is accepted."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Receive, Scope, Send

from slimq_service.http.responses import Response, send_response

EXTENSION = "websocket.http.response"
GONE_SECONDS = 1.0


async def deny(scope: Scope, receive: Receive, send: Send, response: Response, code: str) -> None:
    """The same with an answer that is worded already; `code` is for servers that take none."""
    if EXTENSION not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": code})
        return
    await send_response(send, response, kind=EXTENSION)
    # Until the connection is gone, uvicorn takes a return for a mistake of ours, and logs it as
    # such (uvicorn #3138). It tells of the end twice: once as it is sent, and once as it is there.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GONE_SECONDS):
            await receive()
            await receive()
