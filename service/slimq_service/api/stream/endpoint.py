"""The stream endpoint: one control loop per WebSocket."""

from __future__ import annotations

import asyncio

import structlog
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from slimq.core.errors import SlimqError
from slimq_service.api.stream.codec import StreamCodec
from slimq_service.api.stream.ending import RESTART
from slimq_service.api.stream.messages import JsonCodec
from slimq_service.api.stream.msgpack_codec import MsgpackCodec
from slimq_service.api.stream.options import StreamOptions, read_options
from slimq_service.api.stream.refusal import NoStream, refuse_stream, require_upgrade
from slimq_service.api.stream.session import Opening, Session
from slimq_service.errors import ClosingError, OverloadedError
from slimq_service.http.problems import explain
from slimq_service.requests.pipeline import Pipeline
from slimq_service.requests.routing import with_key
from slimq_service.requests.variant_choice import choose

POLICY_PATH = "/v1/policies/{policy}/stream"
VARIANT_PATH = "/v1/policies/{policy}/variants/{variant}/stream"
RETRY_SECONDS = 5
"""Retry-After if too many streams are open; how long they last is unknown."""


class StreamEndpoint:
    """Opens streams, keeps track of them, and closes them at shutdown."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline, self._metrics = pipeline, pipeline.metrics
        self._reserved = 0
        self._sessions: set[Session] = set()
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._closing = False
        self._log = structlog.get_logger(component="stream")

    def routes(self) -> list[BaseRoute]:
        """Routes of streams, of plain requests at their paths, and of WebSockets elsewhere."""
        paths = (POLICY_PATH, VARIANT_PATH)
        return [
            *(WebSocketRoute(path, endpoint=self, name="stream") for path in paths),
            *(Route(path, endpoint=require_upgrade, include_in_schema=False) for path in paths),
            WebSocketRoute("/{path:path}", endpoint=NoStream(self._metrics), name="no-stream"),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one stream, from its request to its end."""
        await receive()
        try:
            session = await self._open(scope)
        except Exception as error:
            problem = explain(error)
            if not isinstance(error, SlimqError):
                self._log.exception("stream cannot be opened", path=scope["path"])
            self._metrics.http_error(problem["code"])
            await refuse_stream(scope, receive, send, problem)
            return
        ending = RESTART  # if cancelled, which only happens at shutdown
        self._metrics.streams_opened.inc()
        self._metrics.streams_open.inc()
        try:
            ending = await session.run(receive, send)
        finally:
            self._metrics.streams_open.dec()
            self._metrics.stream_closed(ending.label)
            self._forget(session)

    async def end(self) -> None:
        """Refuses new streams, and returns once all open ones are closed."""
        self._closing = True
        for session in self._sessions:
            session.end()
        await self._none_open.wait()

    def reserve(self) -> None:
        """Counts a stream against the limit until `release`, whatever its protocol.

        Raises:
            ClosingError: the service is shutting down.
            OverloadedError: too many streams are open.
        """
        self._check_open()
        if self._reserved >= self._pipeline.settings.streams:
            raise OverloadedError(self._pipeline.settings.streams, RETRY_SECONDS, "streams")
        self._reserved += 1

    def release(self) -> None:
        """Ends what `reserve` began."""
        self._reserved -= 1

    async def _open(self, scope: Scope) -> Session:
        """Opens a session, with its variant in memory and counted against the limit.

        Raises:
            ClosingError: the service is shutting down.
            OverloadedError: too many streams are open.
            NotFoundError: unknown policy or variant.
            RepositoryError: the variant cannot be loaded.
            InvalidInputError: the query has an unknown parameter or value.
            ConflictError: path and query name different variants, or the query two values.
            LimitError: the routing key is too long.
        """
        self.reserve()
        try:
            names, catalogue = scope["path_params"], self._pipeline.catalogue
            policy = await catalogue.known_policy(names["policy"])
            options = read_options(scope["query_string"])
            named = choose(path=names.get("variant"), query=options.variant)
            headers = with_key(scope["headers"])
            default = self._pipeline.default_variant(policy, headers)
            chosen = default if named is None else named
            variant = await catalogue.get(policy.name, chosen)
            self._check_open()
            codec = self._codec(options)
            opening = Opening(
                policy=policy.name,
                variant=named,
                spec=variant.policy.observation,
                headers=headers,
                path=scope["path"],
                codec=codec,
                greeting=codec.greet(variant),
                keep=options.keep,
            )
        except BaseException:
            self.release()
            raise
        session = Session(self._pipeline, opening)
        self._sessions.add(session)
        self._none_open.clear()
        return session

    def _codec(self, options: StreamOptions) -> StreamCodec:
        if options.format == "msgpack":
            return MsgpackCodec(options, self._pipeline.settings)
        return JsonCodec()

    def _check_open(self) -> None:
        if self._closing:
            raise ClosingError

    def _forget(self, session: Session) -> None:
        self.release()
        self._sessions.remove(session)
        if not self._sessions:
            self._none_open.set()
