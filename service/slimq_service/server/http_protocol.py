"""HTTP/1.1 as uvicorn reads it with httptools, with bounds on what a client may take of it.

httptools keeps a header's value until it is whole, however long it is, and uvicorn waits for the
rest of a head, or for the first byte, as long as the client likes: a few thousand connections that
send a byte now and then (slowloris) would be all that a process has. Here a head is bounded in
bytes and in time, as are connections in number and a client that does not take its answer in time.

A head that arrives in one piece, as nearly all do, costs a comparison and no timer.
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
from slimq_service.server.raw_errors import raw_answer
from slimq_service.server.uvicorn_adapter.http import HttpConnection
from slimq_service.server.websocket_handshake import VERSION_HEADER

LINGER_SECONDS = 1.0
"""How long a client may go on sending once it is refused: closing a connection with unread bytes
resets it, and the client might never see the answer. Also how long one has to take the last bytes
of an idle connection that is closed."""
LINGERING = 64
"""Connections beyond the limit that are told so; more are closed without a word."""
FIRST_REQUEST_SECONDS = 1.0
"""How long a new connection has to send a request when the server ends: it was accepted, so its
client may have sent one already."""
NEXT_REQUEST_SECONDS = 0.25
"""The same for one that has sent requests before."""
PIPELINED = 100
"""Requests that one connection may have waiting behind the one that is answered; each takes some
kilobytes, however few bytes it was sent in."""


@dataclass(frozen=True)
class WireLimits:
    """What a client may take.

    Attributes:
        head_bytes: most bytes of request line and headers.
        head_seconds: time in which they must arrive.
        send_seconds: time in which a client must take more of its answer.
        connections: most that are open at once.
        refused: told the code of every error that is answered before there is a request; answers
            the id of that.
        closed: called when a connection has been closed.
    """

    head_bytes: int
    head_seconds: float
    send_seconds: float
    connections: int
    refused: Callable[[str], str]
    closed: Callable[[], None] = lambda: None


def make_protocol(limits: WireLimits, arrivals: Arrivals) -> type[asyncio.Protocol]:
    """The class that `uvicorn.Config` takes as `http`.

    Args:
        limits: what a client may take.
        arrivals: counts the requests that were read and are not started.
    """
    return type("Bounded", (BoundedProtocol,), {"limits": limits, "arrivals": arrivals})


class BoundedProtocol(HttpConnection):
    """One connection.

    A head is counted by the pieces that it arrives in, since httptools does not say where in a
    piece it begins; one that seems too long is measured exactly when it is whole. So a head within
    the limit is never refused, and of one that never ends at most one piece more than the limit is
    kept. The same holds for the trailers of a chunked body, which are dropped.

    After each piece somebody makes an answer, or a timer runs: no client holds a connection by
    sending nothing, or next to nothing.
    """

    limits: ClassVar[WireLimits]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._most = self.limits.head_bytes
        self._in_head = True
        """Whether what comes next is (more of) a head."""
        self._in_chunks = False
        """Whether it is (more of) a body in chunks, or its trailers."""
        self._carried = 0
        """Bytes of the pieces before, of a head or trailers that began at the start of one."""
        self._size = 0
        """The same with the present piece: no head that ends in it can be longer."""
        self._is_over = False
        """Whether it was refused, or belongs to a WebSocket by now."""
        self._is_ending = False
        """Whether the server is."""
        self._timer: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected; its first head must be whole in time."""
        super().connection_made(transport)
        most, error = self.limits.connections, ConnectionsError(self.limits.connections)
        if self.connection_count() > most + LINGERING:
            self._is_over = True
            self.limits.refused(error.code)
            transport.abort()
        elif self.connection_count() > most:
            self._refuse(error)
        else:
            self._start_timer(self.limits.head_seconds, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        """No timer outlives its connection."""
        self._stop_timer()
        self._unset_stalled()
        super().connection_lost(exc)
        self.limits.closed()

    def data_received(self, data: bytes) -> None:
        """A piece, which may hold parts of several requests."""
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
        if self._carried > self._most:
            self._refuse(self._too_long(f"{self._carried} bytes and perhaps more"))
        elif self._timer is None and self.awaits_client():
            self._start_timer(self.limits.head_seconds, self._late)

    def _receive_chunks(self, data: bytes) -> None:
        """Counts pieces in which there is nothing of the body that somebody reads."""
        size, before = self._size, self.unread_body()
        super().data_received(data)
        if self._in_chunks and self.unread_body() == before:
            self._carried = size

    def head_ended(self) -> None:
        """Measures a head that may be too long, and counts the requests that wait."""
        if self._size > self._most and self.head_size() > self._most:
            raise self._too_long(f"{self.head_size()} bytes")
        if self.pipeline and self.waiting_requests() >= PIPELINED:
            raise MalformedRequestError("pipeline", f"{PIPELINED} requests at once", "more")
        self._in_head = False
        self._carried = 0
        if self._timer is not None:
            self._stop_timer()

    def request_begun(self) -> None:
        """Has a request be the last one where the server ends."""
        if self._is_ending:
            self.close_after_answer()

    def on_chunk_header(self) -> None:
        """A part of a body begins, or, after the last, its trailers, which are dropped."""
        self._in_chunks = True
        self.drop_trailers()

    def body_ended(self) -> None:
        """A request is whole: what comes next is a head."""
        self._in_head = True
        self._in_chunks = False

    def refused_handshake(self, error: SlimqError) -> None:
        """Answers a malformed handshake."""
        self._refuse(error, VERSION_HEADER)

    def handed_over(self) -> None:
        """A WebSocket has limits of its own."""
        self._is_over = True
        self._stop_timer()

    def unreadable(self, error: SlimqError | None) -> None:
        """Answers what is no request, or one whose head is too long."""
        size = self.head_size()
        if size > self._most:
            error = self._too_long(f"{size} bytes")
        self._refuse(error or MalformedRequestError("request", "HTTP/1.1", "something else"))

    def pause_writing(self) -> None:
        """More of an answer waits to be taken than is kept."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.limits.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has taken most of it."""
        self._unset_stalled()
        super().resume_writing()

    def finish(self) -> None:
        """Answers what is under way or comes within a moment, and closes."""
        if self._is_over or self._is_ending:
            return
        self._is_ending = True
        if self.is_answering():
            self.close_after_answer()
        elif not self.is_in_head():
            is_used = self.has_had_request()
            seconds = NEXT_REQUEST_SECONDS if is_used else FIRST_REQUEST_SECONDS
            self._start_timer(seconds, self._leave)

    def idle_too_long(self) -> None:
        """Closes an idle connection, even if its client does not take what was sent last."""
        super().idle_too_long()
        self._start_timer(LINGER_SECONDS, self.transport.abort)

    def _too_long(self, received: str) -> HeadLimitError:
        return HeadLimitError("head", self._most, received, "bytes")

    def _late(self) -> None:
        """Time is up: for a head, for the first byte of one, or for a body that nobody needs."""
        self._timer = None
        if self.is_in_head():
            self._refuse(HeadTimeoutError(self.limits.head_seconds))
        elif self.is_answering():
            self.close_after_answer()
        else:
            self.transport.close()

    def _leave(self) -> None:
        """Closes a connection that no request came by."""
        self._timer = None
        if self.is_in_head():
            self._start_timer(self.limits.head_seconds, self._late)
        elif not self.is_answering():
            self._is_over = True
            self._close()

    def _refuse(self, error: SlimqError, *headers: tuple[bytes, bytes]) -> None:
        """Answers with a problem and closes; an answer that is being made is finished before.

        It cannot be where the rest of its body is what is wrong.
        """
        self._is_over = True
        self._stop_timer()
        request_id = self.limits.refused(error.code)
        answered = self._in_chunks and not self.is_answering()
        if self.is_answering():
            self.close_after_answer()
            if not self._in_chunks or self.has_begun_answer() or self.waiting_requests():
                return
            self.give_up_body()
        if not answered:
            common = [*self.common_headers(), *headers]
            self.transport.write(raw_answer(error, common, request_id))
        self._close()

    def _close(self) -> None:
        """Sends no more, and lets the client see that before it is cut off."""
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

    def _unset_stalled(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
