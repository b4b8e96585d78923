"""One request and its response, in place of uvicorn's `RequestResponseCycle`.

The head of a response is sent together with the first part of its body, as ASGI requires ("must not
start sending the response to the client until it has received at least one Response Body event"):
a whole response is one system call and one packet, where uvicorn makes two of each.
"""

from __future__ import annotations

import logging
import re
from asyncio import Event
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from starlette.types import ASGIApp, Message, Scope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HEADER_RE, STATUS_LINE

BODILESS = (204, 304)
"""Status codes of responses that have no body."""
MAX_JOINED_BYTES = 64 * 1024
"""Longer parts of a body are not copied to be written together with the head."""
FRAMING = frozenset((b"content-length", b"transfer-encoding", b"connection"))
"""Headers that determine where a response ends."""
CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)")
FAILED: Message = {
    "status": 500,
    "headers": [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"21"),
        (b"connection", b"close"),
    ],
}
FAILED_BODY = b"Internal Server Error"

_log = logging.getLogger("uvicorn.error")


class Cycle:
    """A request and its response.

    Attributes:
        scope: the request's scope.
        keep_alive: whether the connection stays open after the response.
        body: the part of the request's body that the application has not read yet.
        more_body: whether more of it will follow.
        disconnected: whether the client has disconnected.
        input_ended: whether it sends no more, but may still read the response.
        response_started: whether the application has started its response.
        response_complete: whether it has completed it.
    """

    __slots__ = (
        "_chunked",
        "_common",
        "_complete",
        "_continue_expected",
        "_event",
        "_flow",
        "_head",
        "_is_read",
        "_left",
        "_ready",
        "_transport",
        "body",
        "disconnected",
        "input_ended",
        "keep_alive",
        "more_body",
        "response_complete",
        "response_started",
        "scope",
    )

    def __init__(
        self,
        scope: Scope,
        transport: Any,
        flow: FlowControl,
        headers: list[tuple[bytes, bytes]],
        complete: Callable[[], None],
        keep_alive: bool,
        continue_expected: bool,
    ) -> None:
        """Starts with an empty body.

        Args:
            scope: the request's scope.
            transport: of the connection.
            flow: its flow control.
            headers: of every response.
            complete: called when the response is complete.
            keep_alive: whether the connection stays open after it.
            continue_expected: whether the client waits for `100 Continue` before it sends the body.
        """
        self.scope, self._transport, self._flow = scope, transport, flow
        self._common, self._complete, self.keep_alive = headers, complete, keep_alive
        self._continue_expected = continue_expected
        self.body, self.more_body = b"", True
        self.disconnected = self.response_started = self.response_complete = False
        self.input_ended = self._is_read = self._ready = False
        self._event: Event | None = None
        self._head = b""
        self._left: int | None = None
        self._chunked = False

    @property
    def message_event(self) -> Cycle:
        """The object on which uvicorn calls `set`: the cycle itself."""
        return self

    def set(self) -> None:
        """Tells the application that there is something to receive."""
        self._ready = True
        if self._event is not None:
            self._event.set()

    def add(self, body: bytes) -> None:
        """Adds a part of the request's body; copies only if an earlier part is still unread."""
        self.body = self.body + body if self.body else body
        self.set()

    def end_input(self) -> None:
        """Tells the application that the client sends no more, once it has received the body.

        To the application, this is a disconnect, but what it sends is written all the same, unless
        the request is incomplete.
        """
        self.input_ended = True
        self._is_read = not self._ready
        self.disconnected = self.more_body and not self.response_started
        self.set()

    async def run(self, app: ASGIApp) -> None:
        """Runs the application; whatever it does, the client gets a response or is cut off."""
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException as error:
            _log.error("Exception in ASGI application\n", exc_info=error)
        else:
            if self.response_complete or self.disconnected or self.input_ended:
                return
            _log.error("ASGI callable returned without completing its response.")
        if self.response_complete:
            return
        if self.response_started and not self._head:
            self._transport.close()
        elif not self.disconnected:
            self._start(FAILED)
            self._continue(FAILED_BODY, more=False)

    async def receive(self) -> Message:
        """The next part of the request's body, or that the client has disconnected."""
        if self._continue_expected and not (self.disconnected or self._transport.is_closing()):
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._continue_expected = False
        if not self.disconnected and not self.response_complete:
            if self._flow.read_paused:
                self._flow.resume_reading()
            if not self._ready:
                self._event = self._event or Event()
                self._event.clear()
                await self._event.wait()
            self._ready = self.input_ended
        if self.disconnected or self.response_complete or self._is_read:
            return {"type": "http.disconnect"}
        body, self.body = self.body, b""
        self._is_read = self.input_ended
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        """Sends a part of the response.

        Raises:
            RuntimeError: the application does not follow ASGI.
        """
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if not self.response_started:
            if kind != "http.response.start":
                raise RuntimeError(f"expected 'http.response.start', received {kind!r}")
            self._start(message)
            if "body" in message:  # the extension `WHOLE_RESPONSES`
                self._continue(message["body"], more=False)
        elif kind != "http.response.body" or self.response_complete:
            expected = "no more" if self.response_complete else "'http.response.body'"
            raise RuntimeError(f"expected {expected}, received {kind!r}")
        else:
            self._continue(message.get("body", b""), more=message.get("more_body", False))

    def _start(self, message: Message) -> None:
        """Keeps the head of the response until a part of its body follows."""
        headers = [*self._common, *message.get("headers", ())]
        status = message["status"]
        lines, left, chunked = [STATUS_LINE[status]], None, False
        for name, value in headers:
            key = check_name(name)
            if key not in FRAMING:
                pass
            elif key == b"content-length" and not chunked:
                left = int(value)
            elif key == b"transfer-encoding" and value.lower() == b"chunked":
                left, chunked = None, True
            elif key == b"connection" and b"close" in value.lower().replace(b" ", b"").split(b","):
                self.keep_alive = False
                continue
            lines.append(b"%b: %b\r\n" % (key, value))
        bodiless = status in BODILESS or self.scope["method"] == "HEAD"
        if left is None and not chunked and not bodiless:
            if self.scope.get("http_version") == "1.0":
                self.keep_alive = False  # the end of the connection is that of the body
            else:
                chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
        head = b"".join(lines)
        if CONTROLS.search(head) or head.count(b"\n") != len(lines):
            raise RuntimeError(f"expected headers without control characters, received {headers}")
        if self._continue_expected and self.more_body:
            self.keep_alive = False  # the client may send the body all the same, or not
        self._head, self._left, self._chunked = head, 0 if bodiless else left, chunked
        self.response_started, self._continue_expected = True, False

    def _continue(self, body: bytes, *, more: bool) -> None:
        """Sends a part of the body, the first one behind the head."""
        if self.scope["method"] == "HEAD":
            body = b""
        elif self._chunked:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            body += b"" if more else b"0\r\n\r\n"
        elif self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("expected a body of Content-Length bytes, received another")
        head, self._head = self._head, b""
        if head:
            head += b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        if len(body) > MAX_JOINED_BYTES:
            self._transport.write(head)
            self._transport.write(body)
        elif head or body:
            self._transport.write(head + body)
        if more:
            return
        self.response_complete = True
        self.set()
        if not self.keep_alive:
            self._transport.close()
        self._complete()


@lru_cache(256)
def check_name(name: bytes) -> bytes:
    """A header's name in lower case.

    Raises:
        RuntimeError: it is not a valid name.
    """
    if HEADER_RE.search(name):
        raise RuntimeError(f"expected a header's name, received {name!r}")
    return name.lower()
