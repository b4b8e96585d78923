"""gRPC's health checking protocol, for probes and load balancers; needs no key.

The service is serving when it is ready: as `/readyz`, or `ServerReady`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from slimq_service.app import Application
from slimq_service.errors import ClosingError
from slimq_service.grpc.bridge import Bridge, Code, Failure
from slimq_service.grpc.streams import Streams
from slimq_service.operations.health import is_ready

NAME = "grpc.health.v1.Health"
POLL_SECONDS = 0.5
"""Interval between looks at the readiness for clients that watch it."""
Status = health_pb2.HealthCheckResponse


class Health:
    """The methods `Check` and `Watch`."""

    def __init__(
        self, app: Application, bridge: Bridge, streams: Streams, services: frozenset[str]
    ) -> None:
        """Answers nothing yet.

        Args:
            app: whose readiness it reports.
            bridge: parses requests.
            streams: of all calls.
            services: known names; the empty name stands for the whole server.
        """
        self._catalogue, self._lifecycle = app.catalogue, app.lifecycle
        self._bridge, self._streams, self._services = bridge, streams, {"", *services}

    def handler(self) -> grpc.GenericRpcHandler:
        """The handler to add to a server."""
        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }
        return grpc.method_handlers_generic_handler(NAME, methods)

    async def _check(self, message: bytes, context: Any) -> bytes:
        service = await self._service(message, context)
        if service not in self._services:
            known = ", ".join(map(repr, sorted(self._services)))
            await context.abort(Code.NOT_FOUND, f"unknown service {service!r}; known: {known}")
        answer: bytes = Status(status=self._status(service)).SerializeToString()
        return answer

    async def _watch(self, message: bytes, context: Any) -> None:
        service, last = await self._service(message, context), None
        try:
            while True:
                status = self._status(service)
                if status != last:
                    answer = Status(status=status).SerializeToString()
                    await self._streams.wait(context.write(answer), None)
                last = status
                await self._streams.wait(asyncio.sleep(POLL_SECONDS), None)
        except ClosingError as error:
            await context.abort(Code.UNAVAILABLE, str(error))

    async def _service(self, message: bytes, context: Any) -> str:
        try:
            request = self._bridge.parse(health_pb2.HealthCheckRequest, message)
        except Failure as failure:
            await failure.abort(context)
        return str(request.service)

    def _status(self, service: str) -> Any:
        if service not in self._services:
            return Status.SERVICE_UNKNOWN
        serving = is_ready(self._catalogue, self._lifecycle)
        return Status.SERVING if serving else Status.NOT_SERVING
