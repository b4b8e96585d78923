"""uvicorn's HTTP/1.1 connection with hooks and accessors."""

from __future__ import annotations

from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from slimq.core.errors import SlimqError
from slimq_service.errors import MalformedRequestError
from slimq_service.inference.arrivals import App
from slimq_service.server.websocket_handshake import asks_for_websocket, check_handshake

Headers = list[tuple[bytes, bytes]]


class HttpConnection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 connection, with upgrades according to RFC 9110 (7.8).

    httptools ends a request after a head with `Upgrade`: it reads no body, and parses what follows
    as the next request. Only upgrades to WebSocket are accepted. For any other, the head is parsed
    again without `Upgrade`, by a new parser, followed by the rest of the data. Requests without
    `Upgrade` cost nothing.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._answering: Any = None
        """The cycle of the request in progress; uvicorn only knows the newest one."""
        self._last: Any = None
        """The cycle after which the connection is closed."""

    # Hooks, with defaults that do nothing or what uvicorn does.

    def answered_by(self, app: App) -> App:
        """Returns the application to call for a request."""
        return app

    def head_ended(self) -> None:
        """Called after a head, before its request; may raise a `SlimqError` to reject it."""

    def request_begun(self) -> None:
        """Called when a request has been started or queued."""

    def body_ended(self) -> None:
        """Called at the end of a request."""

    def unreadable(self, error: SlimqError | None) -> None:
        """Called for malformed data; `error` is the reason, if known."""

    def refused_handshake(self, error: SlimqError) -> None:
        """Called for a malformed WebSocket handshake."""

    def handed_over(self) -> None:
        """Called when the connection becomes a WebSocket."""

    def finish(self) -> None:
        """Called when the server shuts down."""
        super().shutdown()

    def idle_too_long(self) -> None:
        """Called when the keep-alive timeout has passed."""
        super().timeout_keep_alive_handler()

    # State.

    def is_answering(self) -> bool:
        """Whether a response is in progress."""
        return self.cycle is not None and not self.cycle.response_complete

    def has_had_request(self) -> bool:
        """Whether there has been a request."""
        return self.cycle is not None

    def has_begun_answer(self) -> bool:
        """Whether a part of the response in progress has been sent."""
        return self.is_answering() and self.cycle.response_started

    def is_in_head(self) -> bool:
        """Whether a head is incomplete."""
        return self.scope is not None and "method" not in self.scope

    def head_size(self) -> int:
        """Bytes of the head parsed so far, including separators."""
        if not self.is_in_head():
            return 0
        lines = sum(len(name) + len(value) + 4 for name, value in self.headers)
        return len("GET  HTTP/1.1\r\n\r\n") + len(self.url) + lines

    def unread_body(self) -> int:
        """Bytes of the newest request's body that the application has not read."""
        return len(self.cycle.body)

    def waiting_requests(self) -> int:
        """The number of queued pipelined requests."""
        return len(self.pipeline)

    def connection_count(self) -> int:
        """The server's open connections, including this one and WebSockets."""
        return len(self.connections)

    def common_headers(self) -> Headers:
        """Default headers of responses."""
        return self.server_state.default_headers

    # Actions.

    def close_after_answer(self) -> None:
        """Closes the connection after the response to the newest request."""
        if self._last is not None and not self._last.response_started:
            self._last.keep_alive = True
        self._last = self.cycle if self.cycle.keep_alive else None
        self.cycle.keep_alive = False

    def give_up_body(self) -> None:
        """Signals a disconnect to the application: the rest of the body will not arrive."""
        self.cycle.disconnected = True
        self.cycle.message_event.set()

    def drop_trailers(self) -> None:
        """Keeps the fields that follow (trailers) out of the request's headers."""
        self.headers = []

    # Callbacks of asyncio and httptools, and overridden methods of uvicorn.

    def connection_lost(self, exc: Exception | None) -> None:
        """Signals the disconnect to the application, and cancels the timer."""
        self._unset_keepalive_if_required()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses data; continues after heads whose upgrade is ignored."""
        self._unset_keepalive_if_required()
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                rest = data[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                raised = error.__context__
                self.unreadable(raised if isinstance(raised, SlimqError) else None)
                return
            else:
                return
            if self._asks_for_websocket():
                self._become_websocket(rest)
                return
            head = self._head_without_upgrade()
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            data = head + rest

    def on_headers_complete(self) -> None:
        """Starts a request; upgrades are handled by `data_received`."""
        if not self.parser.should_upgrade():
            self.head_ended()
            super().on_headers_complete()
            self.request_begun()
        elif self.parser.get_method() == b"CONNECT":
            raise MalformedRequestError("method", "any but CONNECT", "CONNECT")
        elif self._asks_for_websocket():
            self.head_ended()

    def on_message_complete(self) -> None:
        """Ends a request; one with an upgrade has not been started."""
        if not self.parser.should_upgrade():
            self.body_ended()
            super().on_message_complete()

    def shutdown(self) -> None:
        """Closes the connection after pending responses."""
        self.finish()

    def timeout_keep_alive_handler(self) -> None:
        """Closes an idle connection."""
        self.idle_too_long()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, self.answered_by(app))

    def _asks_for_websocket(self) -> bool:
        """Whether the head requests a WebSocket and no response is pending."""
        if self.is_answering() or self.ws_protocol_class is None:
            return False
        version = self.parser.get_http_version()
        return asks_for_websocket(self.parser.get_method(), version, self.headers)

    def _become_websocket(self, rest: bytes) -> None:
        try:
            check_handshake(self.url, self.headers)
        except MalformedRequestError as error:
            self.refused_handshake(error)
            return
        self.headers[:] = [(name, value) for name, value in self.headers if name != b"upgrade"]
        self.headers.append((b"upgrade", b"websocket"))
        self.scope["method"] = "GET"
        self.handed_over()
        self.handle_websocket_upgrade()
        if rest:
            self.transport.get_protocol().data_received(rest)  # type: ignore[attr-defined]

    def _head_without_upgrade(self) -> bytes:
        method, version = self.parser.get_method(), self.parser.get_http_version()
        lines = [b"%s %s HTTP/%s" % (method, self.url, version.encode())]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])
