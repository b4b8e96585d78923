"""uvicorn's HTTP/1.1 connection with hooks and accessors."""

from __future__ import annotations

from asyncio import current_task
from typing import Any, ClassVar
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from slimq.core.errors import SlimqError
from slimq_service.errors import MalformedRequestError
from slimq_service.http.responses import WHOLE_RESPONSES
from slimq_service.inference.arrivals import Arrivals
from slimq_service.server.uvicorn_adapter.cycle import Cycle
from slimq_service.server.uvicorn_adapter.keep_alive import KeepAliveConnection
from slimq_service.server.uvicorn_adapter.request_headers import check_host
from slimq_service.server.uvicorn_adapter.target import split_target
from slimq_service.server.websocket_handshake import asks_for_websocket, check_handshake

Headers = list[tuple[bytes, bytes]]
VERSIONS = ("1.1", "1.0")
"""Of HTTP; httptools also accepts 0.9 and 2.0."""
EXTENSIONS: dict[str, dict[object, object]] = {WHOLE_RESPONSES: {}}


class HttpConnection(KeepAliveConnection):
    """uvicorn's HTTP/1.1 connection, with upgrades according to RFC 9110 (7.8).

    httptools ends a request after a head with `Upgrade`: it reads no body, and parses what follows
    as the next request. Only upgrades to WebSocket are accepted. For any other, the head is parsed
    again without `Upgrade`, by a new parser, followed by the rest of the data. Requests without
    `Upgrade` cost nothing.
    """

    arrivals: ClassVar[Arrivals]
    cycle: Any
    scope: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._answering: Any = None
        """The cycle of the request in progress; uvicorn only knows the newest one."""
        self._last: Any = None
        """The cycle after which the connection is closed."""
        self._pipelines = False
        """Whether the client has sent a request before the response to the previous one."""

    # Hooks, with defaults that do nothing or what uvicorn does.

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

    # State.

    def is_answering(self) -> bool:
        """Whether a response is in progress."""
        return self.cycle is not None and not self.cycle.response_complete

    def has_begun_answer(self) -> bool:
        """Whether the application has started the response in progress."""
        return self.is_answering() and self.cycle.response_started

    def awaits_client(self) -> bool:
        """Whether the client must send more: a head, or the rest of a body that nobody needs."""
        cycle = self.cycle
        if cycle is None or self.is_in_head():
            return True
        return cycle.response_complete and (cycle.more_body or self._idle_since is None)

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

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keeps the connection open for pending responses: the client can still read them.

        A client that disconnects looks the same. So a request that is alone on its connection is
        told, and is answered unless it gives up; so is one that is incomplete.
        """
        if not self.is_answering() or self.cycle.disconnected:
            return False
        self.close_after_answer()
        if self.cycle.more_body or not self._pipelines:
            self.cycle.end_input()
        return True

    def data_received(self, data: bytes) -> None:
        """Parses data; continues after heads whose upgrade is ignored."""
        self._idle_since = None
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
            self._begin_request()
            self.request_begun()
        elif self.parser.get_method() == b"CONNECT":
            raise MalformedRequestError("method", "any method but CONNECT", "CONNECT")
        elif self._asks_for_websocket():
            self.head_ended()
            check_host(self.headers, self.parser.get_http_version())

    def on_message_complete(self) -> None:
        """Ends a request; one with an upgrade has not been started."""
        if not self.parser.should_upgrade():
            self.body_ended()
            self.cycle.more_body = False
            if not self.cycle.response_complete:
                self.cycle.set()
            elif not self.transport.is_closing():
                self._become_idle()

    def on_body(self, body: bytes) -> None:
        """Adds a part of a body to its request, unless that has already been answered."""
        cycle = self.cycle
        if self.parser.should_upgrade() or cycle.response_complete:
            return
        cycle.add(body)
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def on_response_complete(self) -> None:
        """Starts the next pipelined request, or else the keep-alive timeout."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        if not self.is_in_head():
            self._become_idle()

    def shutdown(self) -> None:
        """Closes the connection after pending responses."""
        self.finish()

    def _begin_request(self) -> None:
        """Completes the scope and starts the application, or queues the request behind others."""
        parser, scope, before = self.parser, self.scope, self.cycle
        version, (raw_path, query) = parser.get_http_version(), split_target(self.url)
        if version not in VERSIONS:
            raise MalformedRequestError("request", "HTTP/1.0 or HTTP/1.1", f"HTTP/{version}")
        check_host(self.headers, version)
        scope["method"] = parser.get_method().decode("ascii")
        scope["http_version"] = version
        path = raw_path.decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"], scope["query_string"] = raw_path, query
        scope["extensions"] = EXTENSIONS
        self.cycle = cycle = Cycle(
            scope,
            self.transport,
            self.flow,
            self.server_state.default_headers,
            self.on_response_complete,
            version != "1.0" and parser.should_keep_alive(),
            self.expect_100_continue and version != "1.0",
        )
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self._pipelines = True
            self.flow.pause_reading()
            queue: Any = self.pipeline
            queue.appendleft((cycle, self.app))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        self.arrivals.pending += 1
        self.arrivals.tracked = True
        self.tasks.add(self.loop.create_task(self._run(cycle, app)))

    async def _run(self, cycle: Cycle, app: Any) -> None:
        self.arrivals.pending -= 1
        try:
            await cycle.run(app)
        finally:
            self.tasks.discard(current_task())
            if cycle.input_ended and not cycle.response_complete:
                self.transport.close()  # the application has given up

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
