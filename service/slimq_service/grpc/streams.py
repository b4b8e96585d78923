"""Streams of requests for actions, and how all streams end when the service does.

A stream's requests are answered one after the other. An error of one of them is its response, and
the stream goes on; only a request without a sufficient key ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import grpc.aio
from google.protobuf.message import DecodeError

from slimq.core.errors import SlimqError
from slimq_service.api.stream.ending import CLIENT, IDLE, LOST, PROTOCOL, RESTART, Ending
from slimq_service.app import Application
from slimq_service.errors import ClosingError
from slimq_service.grpc.bridge import REFUSED, Bridge, Code, Failure
from slimq_service.grpc.methods import Methods
from slimq_service.grpc.open_inference_pb2 import ModelInferRequest, ModelStreamInferResponse

STATUS_REQUESTED = ("triton_grpc_error", "true")
"""Metadata of clients that want an error to end the stream, with its status."""
T = TypeVar("T")


class Streams:
    """What open streams wait for, so that the wait can be ended."""

    def __init__(self) -> None:
        self._timeouts: set[asyncio.Timeout] = set()
        self._closing = False

    async def wait(self, waiting: Awaitable[T], seconds: float | None) -> T:
        """Awaits the next event of a stream.

        Raises:
            TimeoutError: it did not happen in time.
            ClosingError: the service is shutting down.
        """
        timeout = asyncio.timeout(0 if self._closing else seconds)
        self._timeouts.add(timeout)
        try:
            async with timeout:
                return await waiting
        except TimeoutError:
            if self._closing:
                raise ClosingError from None
            raise
        finally:
            self._timeouts.discard(timeout)

    def close(self) -> None:
        """Ends every wait, and those to come."""
        self._closing = True
        for timeout in self._timeouts:
            if not timeout.expired():
                timeout.reschedule(0)

    async def until_closed(self, items: AsyncIterator[T], seconds: float) -> AsyncIterator[T]:
        """The items, until there are no more, none arrives for some time, or the service ends."""
        try:
            while True:
                yield await self.wait(anext(items), seconds)
        except (StopAsyncIteration, TimeoutError, ClosingError):
            return


class InferStream:
    """The method `ModelStreamInfer`."""

    def __init__(
        self, app: Application, methods: Methods, bridge: Bridge, streams: Streams
    ) -> None:
        """Opens nothing yet.

        Args:
            app: the application, which limits and counts streams over WebSockets, too.
            methods: answer the requests.
            bridge: turns errors into failures.
            streams: of all calls.
        """
        self._methods, self._bridge, self._streams = methods, bridge, streams
        self._endpoint, self._metrics = app.streams, app.metrics
        self._idle_seconds = app.settings.stream_idle_seconds

    async def serve(self, requests: object, context: Any) -> None:  # noqa: ARG002
        """Answers the requests of one stream, which it reads from its context."""
        try:
            self._endpoint.reserve()
        except SlimqError as error:
            await self._bridge.refuse(error).abort(context)
        self._metrics.streams_opened.inc()
        self._metrics.streams_open.inc()
        ending = LOST  # if cancelled
        try:
            ending = await self._serve(context)
        except Failure as failure:
            ending = PROTOCOL
            await failure.abort(context)
        finally:
            self._metrics.streams_open.dec()
            self._metrics.stream_closed(ending.label)
            self._endpoint.release()
        if ending is IDLE:
            await context.abort(Code.DEADLINE_EXCEEDED, ending.reason)
        if ending is RESTART:
            await context.abort(Code.UNAVAILABLE, str(ClosingError()))

    async def _serve(self, context: Any) -> Ending:
        raises = STATUS_REQUESTED in (context.invocation_metadata() or ())
        wait, seconds = self._streams.wait, self._idle_seconds
        try:
            while (message := await wait(context.read(), seconds)) is not grpc.aio.EOF:
                response = await self._answer(message, context, raises=raises)
                await wait(context.write(response), seconds)
        except TimeoutError:
            return IDLE
        except ClosingError:
            return RESTART
        return CLIENT

    async def _answer(self, message: bytes, context: Any, *, raises: bool) -> bytes:
        """The response to a request, or its error.

        Raises:
            Failure: the error ends the stream: the client asked for that, or has no key.
        """
        try:
            return (await self._methods.infer(message, context, in_stream=True)).body
        except Failure as failure:
            if raises or failure.status in REFUSED:
                raise
            answer = ModelStreamInferResponse(error_message=failure.text)
            with contextlib.suppress(DecodeError):
                answer.infer_response.id = ModelInferRequest.FromString(message).id
            return answer.SerializeToString()
