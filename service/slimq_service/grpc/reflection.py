"""Server reflection: the services and their messages, for tools such as grpcurl.

Where every request needs a key, this does, too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from grpc_reflection.v1alpha import reflection

from slimq_service.grpc.bridge import Bridge, Failure
from slimq_service.grpc.streams import Streams


class Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]
    """The published servicer, with a key, and an end."""

    def __init__(
        self, names: Iterable[str], bridge: Bridge, streams: Streams, idle_seconds: float
    ) -> None:
        """Describes the services with these names.

        Args:
            names: of the services.
            bridge: checks keys.
            streams: of all calls.
            idle_seconds: time without a question after which a stream is closed.
        """
        super().__init__(names)
        self._bridge, self._streams, self._idle_seconds = bridge, streams, idle_seconds

    async def ServerReflectionInfo(  # noqa: N802
        self, requests: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[Any]:
        """Answers questions."""
        try:  # anything that needs the same key
            await self._bridge.ask(context, "GET", "/v2")
        except Failure as failure:
            await failure.abort(context)
        questions = self._streams.until_closed(aiter(requests), self._idle_seconds)
        async for answer in super().ServerReflectionInfo(questions, context):
            yield answer
