"""Turns calls into requests of the application, and its responses into results or statuses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NoReturn, TypeVar

import grpc
import orjson
import structlog
from google.protobuf.message import DecodeError, Message
from starlette.types import ASGIApp, Scope
from starlette.types import Message as Event

from slimq.core.errors import SlimqError
from slimq_service.app import Application
from slimq_service.errors import MalformedError
from slimq_service.http.error_responses import V2_STATUSES
from slimq_service.http.problems import internal_problem, problem_of
from slimq_service.http.request_ids import HEADER as REQUEST_ID
from slimq_service.http.responses import WHOLE_RESPONSES

Code = grpc.StatusCode
CODES = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    409: Code.FAILED_PRECONDITION,
    413: Code.RESOURCE_EXHAUSTED,
    503: Code.UNAVAILABLE,
}
"""Status codes of HTTP statuses; of others, INTERNAL."""
REFUSED = (401, 403)
PUSHBACK = "grpc-retry-pushback-ms"
"""Metadata that tells clients which retry when to do so, like `Retry-After`."""
OF_BODIES = frozenset(("content-length", "content-encoding", "transfer-encoding"))
"""Headers that would describe another body than the one that the application receives."""
EXTENSIONS: dict[str, Any] = {WHOLE_RESPONSES: {}}
CACHED_PEERS = 1024

M = TypeVar("M", bound=Message)
Metadata = tuple[tuple[str, str], ...]


class Failure(Exception):  # noqa: N818
    """A call failed.

    Attributes:
        status: the HTTP status.
        text: the error's message.
        metadata: to be sent after it.
    """

    def __init__(self, status: int, text: str, metadata: Metadata = ()) -> None:
        super().__init__(text)
        self.status, self.text, self.metadata = status, text, metadata

    async def abort(self, context: Any) -> NoReturn:
        """Ends the call with this failure."""
        code = CODES.get(self.status, Code.INTERNAL)
        await context.abort(code, self.text, self.metadata)
        raise AssertionError  # abort() raises


class Exchange:
    """One request and its response.

    Attributes:
        status: of the response; 0 until there is one.
        headers: of the response.
    """

    __slots__ = ("_body", "_chunks", "headers", "status")

    def __init__(self, body: bytes) -> None:
        """Takes the request's body."""
        self._body: bytes | None = body
        self.status = 0
        self.headers: Sequence[tuple[bytes, bytes]] = ()
        self._chunks: list[bytes] = []

    @property
    def body(self) -> bytes:
        """The body of the response."""
        return b"".join(self._chunks)

    async def receive(self) -> Event:
        """The body; then nothing, as gRPC cancels the calls of clients that have gone."""
        if self._body is None:
            await asyncio.get_running_loop().create_future()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, event: Event) -> None:
        """Keeps the response."""
        if event["type"] == "http.response.start":
            self.status, self.headers = event["status"], event["headers"]
        self._chunks.append(event.get("body", b""))

    def failure(self) -> Failure:
        """The failure that the response describes."""
        metadata: list[tuple[str, str]] = []
        for name, value in self.headers:
            if name == REQUEST_ID:
                metadata.append((REQUEST_ID.decode(), value.decode("ascii")))
            elif name == b"retry-after":
                metadata.append((PUSHBACK, str(1000 * int(value))))
        return Failure(self.status, orjson.loads(self.body)["error"], tuple(metadata))


class Bridge:
    """Makes requests on behalf of calls."""

    def __init__(self, app: Application, address: tuple[str, int]) -> None:
        """Makes no request yet.

        Args:
            app: the application.
            address: of the gRPC port, which is the server's address in requests.
        """
        self._app, self._address = app, address
        self._logs_clients = app.settings.access_log
        self._log = structlog.get_logger(component="grpc")

    def scope(self, context: Any, method: str, path: str, size: int) -> Scope:
        """The scope of a request.

        Args:
            context: of the call, for its metadata and peer.
            method: the HTTP method.
            path: the path, in which slashes in names are escaped; see `escape`.
            size: bytes of the body.
        """
        headers = [
            (name.encode(), value if isinstance(value, bytes) else value.encode())
            for name, value in context.invocation_metadata()
            if name not in OF_BODIES
        ]
        headers.append((b"content-length", b"%d" % size))
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "2",
            "method": method,
            "scheme": "http",
            "path": path,
            "root_path": "",
            "query_string": b"",
            "headers": headers,
            "client": client_of(context.peer()) if self._logs_clients else None,
            "server": self._address,
            "extensions": EXTENSIONS,
        }

    async def exchange(self, app: ASGIApp, scope: Scope, body: bytes) -> Exchange:
        """Makes a request.

        Raises:
            Failure: it was not successful.
        """
        exchange = Exchange(body)
        try:
            await app(scope, exchange.receive, exchange.send)
        except Exception as error:
            if not exchange.status:  # otherwise it was logged, and answered
                self._log.error("call failed", path=scope["path"], exc_info=error)
                problem = internal_problem()
                raise Failure(problem["status"], problem["detail"]) from None
        if exchange.status != 200:
            raise exchange.failure()
        return exchange

    async def ask(self, context: Any, method: str, path: str, body: bytes = b"") -> Any:
        """The JSON of a response; see `scope` for the arguments.

        Raises:
            Failure: the request was not successful.
        """
        scope = self.scope(context, method, path, len(body))
        return orjson.loads((await self.exchange(self._app.asgi, scope, body)).body)

    def parse(self, kind: type[M], message: bytes) -> M:
        """Parses the message of a call.

        Raises:
            Failure: the bytes are no such message.
        """
        try:
            return kind.FromString(message)
        except DecodeError:
            name = kind.DESCRIPTOR.full_name
            error = MalformedError("message", name, f"{len(message)} other bytes")
            raise self.refuse(error) from None

    def refuse(self, error: SlimqError) -> Failure:
        """The failure of a call that is not even a request; counts it."""
        problem = problem_of(error)
        request_id = self._app.count_refused(problem["code"])
        status: int = problem["status"]
        status = V2_STATUSES.get(status, status)
        return Failure(status, problem["detail"], ((REQUEST_ID.decode(), request_id),))


def escape(name: str) -> str:
    """A name as one segment of a path; no name that the repository may hold has a slash."""
    return name.replace("/", "%2F")


@lru_cache(CACHED_PEERS)
def client_of(peer: str) -> tuple[str, int] | None:
    """Address and port of a peer such as `ipv4:127.0.0.1:50000`, None if it is something else."""
    kind, _, rest = peer.partition(":")
    host, _, port = rest.rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdigit():
        return None
    return host.replace("%5B", "[").replace("%5D", "]").strip("[]"), int(port)
