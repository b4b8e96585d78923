"""uvicorn's HTTP/1.1 protocol with limits on the resources that clients can occupy.

httptools buffers a header until it is complete, however long it is, and uvicorn waits indefinitely
for the rest of a head, or for its first byte: a few thousand connections that send a byte now and
then (slowloris) would exhaust a process. Here, the size and duration of a head are limited, as are
the number of connections and the time that a client has to read its response.

A head that arrives in one piece, as nearly all do, costs one comparison and no timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from slimq.core.errors import SlimqError
from slimq_service.errors import (
    ConnectionsError,
    HeadLimitError,
    HeadTimeoutError,
    MalformedRequestError,
)
from slimq_service.inference.arrivals import Arrivals
from slimq_service.server.raw_errors import raw_response
from slimq_service.server.uvicorn_adapter.http import HttpConnection
from slimq_service.server.uvicorn_adapter.request_headers import check_transfer_coding
from slimq_service.server.websocket_handshake import VERSION_HEADER

LINGER_SECONDS = 1.0
"""How long a rejected client may keep sending: closing a connection with unread bytes resets it,
and the client might never see the response. Also the time to read the last bytes of an idle
connection that is closed."""
MAX_LINGERING = 64
"""Connections beyond the limit that get an error response; further ones are aborted."""
FIRST_REQUEST_SECONDS = 1.0
"""Time for a new connection to send a request during shutdown: its client may already have sent it,
since the connection was accepted."""
NEXT_REQUEST_SECONDS = 0.25
"""The same for a connection that has sent requests before."""
MAX_PIPELINED = 100
"""Pipelined requests that a connection may have queued; each uses some kilobytes of memory, however
small it is."""


@dataclass(frozen=True)
class WireLimits:
    """Limits and callbacks of connections.

    Attributes:
        head_bytes: maximum size of request line and headers.
        head_seconds: timeout for them to arrive.
        send_seconds: timeout for a client to read more of its response.
        connections: maximum number of open connections.
        refused: called with the code of every error that precedes a request; returns a request
            id.
        closed: called after a connection was closed.
    """

    head_bytes: int
    head_seconds: float
    send_seconds: float
    connections: int
    refused: Callable[[str], str]
    closed: Callable[[], None] = lambda: None


def make_protocol(limits: WireLimits, arrivals: Arrivals) -> type[asyncio.Protocol]:
    """The protocol class to pass to `uvicorn.Config` as `http`.

    Args:
        limits: limits and callbacks of connections.
        arrivals: counts requests that have been read but not started.
    """
    return type("Bounded", (BoundedProtocol,), {"limits": limits, "arrivals": arrivals})


class BoundedProtocol(HttpConnection):
    """A connection with limits.

    A head's size is estimated from the reads that it spans, since httptools does not report where
    in a read it starts; if it seems too large, it is measured exactly once it is complete. So a
    head within the limit is never rejected, and an endless one is buffered for at most one read
    beyond the limit. The same holds for the trailers of a chunked body, which are discarded.

    After each read, either a response is in progress or a timer is running: no client can hold a
    connection open by sending little or nothing.
    """

    limits: ClassVar[WireLimits]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._max_head = self.limits.head_bytes
        self._in_head = True
        """Whether the next bytes belong to a head."""
        self._in_chunks = False
        """Whether they belong to a chunked body or its trailers."""
        self._carried = 0
        """Bytes received earlier that may belong to the current head or trailers."""
        self._size = 0
        """The same including the current data: an upper bound for a head that ends in it."""
        self._is_over = False
        """Whether the connection was rejected, or has become a WebSocket."""
        self._is_shutting_down = False
        """Whether the server is shutting down."""
        self._timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the timeout of the first head, or rejects the connection."""
        super().connection_made(transport)
        most, error = self.limits.connections, ConnectionsError(self.limits.connections)
        if self.connection_count() > most + MAX_LINGERING:
            self._is_over = True
            self.limits.refused(error.code)
            transport.abort()
        elif self.connection_count() > most:
            self._refuse(error)
        else:
            self._start_timer(self.limits.head_seconds, self._timed_out)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancels the timers."""
        self._stop_timer()
        self._stop_send_timer()
        super().connection_lost(exc)
        self.limits.closed()

    def data_received(self, data: bytes) -> None:
        """Parses received data, which may contain parts of several requests."""
        if self._is_over:
            return
        self._size = self._carried + len(data)
        self._carried = self._size if self._in_head else 0
        if self._in_chunks:
            self._receive_chunks(data)
        else:
            super().data_received(data)
        if self._is_over:
            return
        if self._carried > self._max_head:
            self._refuse(self._head_too_large(f"at least {self._carried} bytes"))
        elif self._timer is None and self.awaits_client():
            self._start_timer(self.limits.head_seconds, self._timed_out)

    def _receive_chunks(self, data: bytes) -> None:
        """Counts data that contains nothing of the body proper."""
        size, before = self._size, self.unread_body()
        super().data_received(data)
        if self._in_chunks and self.unread_body() == before:
            self._carried = size

    def head_ended(self) -> None:
        """Checks the size of a head, and the number of pipelined requests."""
        if self._size > self._max_head and self.head_size() > self._max_head:
            raise self._head_too_large(f"{self.head_size()} bytes")
        if len(self.pipeline) >= MAX_PIPELINED:
            limit = f"at most {MAX_PIPELINED} requests at once"
            raise MalformedRequestError("pipeline", limit, "more")
        self._in_head = False
        self._carried = 0
        if self._timer is not None:
            self._stop_timer()

    def request_begun(self) -> None:
        """Makes a request the last one if the server is shutting down."""
        if self._is_shutting_down:
            self.close_after_answer()

    def on_chunk_header(self) -> None:
        """A chunk of a body starts, or, after the last one, its trailers, which are discarded."""
        self._in_chunks = True
        check_transfer_coding(self.headers)
        self.drop_trailers()

    def body_ended(self) -> None:
        """A request is complete, and a head follows."""
        self._in_head = True
        self._in_chunks = False

    def refused_handshake(self, error: SlimqError) -> None:
        """Answers a malformed handshake."""
        self._refuse(error, VERSION_HEADER)

    def handed_over(self) -> None:
        """Stops limiting the connection: WebSockets have their own limits."""
        self._is_over = True
        self._stop_timer()

    def unreadable(self, error: SlimqError | None) -> None:
        """Rejects a malformed request, or one whose head is too large."""
        size = self.head_size()
        if size > self._max_head:
            error = self._head_too_large(f"{size} bytes")
        self._refuse(error or MalformedRequestError("request", "HTTP/1.1", "something else"))

    def pause_writing(self) -> None:
        """Starts the timeout for the client to read: the write buffer is full."""
        super().pause_writing()
        if self._send_timer is None:
            self._send_timer = self.loop.call_later(self.limits.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Cancels the timeout: the client has read most of the buffer."""
        self._stop_send_timer()
        super().resume_writing()

    def finish(self) -> None:
        """Answers requests in progress or about to arrive, then closes."""
        if self._is_over or self._is_shutting_down:
            return
        self._is_shutting_down = True
        if self.is_answering():
            self.close_after_answer()
        elif not self.is_in_head():
            is_used = self.cycle is not None
            seconds = NEXT_REQUEST_SECONDS if is_used else FIRST_REQUEST_SECONDS
            self._start_timer(seconds, self._close_unused)

    def idle_too_long(self) -> None:
        """Closes an idle connection, even if its client does not read the last response."""
        super().idle_too_long()
        self._start_timer(LINGER_SECONDS, self.transport.abort)

    def _head_too_large(self, received: str) -> HeadLimitError:
        return HeadLimitError("head", self._max_head, received, "bytes")

    def _timed_out(self) -> None:
        """Handles the timeout of a head, of its first byte, or of a body that nobody reads."""
        self._timer = None
        if self.is_in_head():
            self._refuse(HeadTimeoutError(self.limits.head_seconds))
        elif self.is_answering():
            self.close_after_answer()
        else:
            self.transport.close()

    def _close_unused(self) -> None:
        """Closes a connection on which no request has arrived."""
        self._timer = None
        if self.is_in_head():
            self._start_timer(self.limits.head_seconds, self._timed_out)
        elif not self.is_answering():
            self._is_over = True
            self._close()

    def _refuse(self, error: SlimqError, *headers: tuple[bytes, bytes]) -> None:
        """Responds with a problem document and closes, after any response in progress.

        A response whose request body is the cause of the error is not waited for.
        """
        self._is_over = True
        self._stop_timer()
        request_id = self.limits.refused(error.code)
        in_body = self.cycle is not None and self.cycle.more_body
        answered = in_body and not self.is_answering()
        if self.is_answering():
            self.close_after_answer()
            if not in_body or self.has_begun_answer() or self.pipeline:
                return
            self.give_up_body()
        if not answered:
            common = [*self.common_headers(), *headers]
            self.transport.write(raw_response(error, common, request_id))
        self._close()

    def _close(self) -> None:
        """Half-closes the connection, so that the client can read the response before the reset."""
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._start_timer(LINGER_SECONDS, self.transport.abort)
        else:
            self.transport.close()

    def _start_timer(self, seconds: float, then: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, then)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None
