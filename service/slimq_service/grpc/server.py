"""The gRPC server of a process, on the event loop of its HTTP server."""

from __future__ import annotations

import grpc
import grpc.aio
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from slimq_service.app import Application
from slimq_service.grpc.bridge import Bridge
from slimq_service.grpc.health import NAME as HEALTH
from slimq_service.grpc.health import Health
from slimq_service.grpc.methods import Methods
from slimq_service.grpc.open_inference_pb2 import DESCRIPTOR
from slimq_service.grpc.reflection import Reflection
from slimq_service.grpc.streams import InferStream, Streams
from slimq_service.settings import Settings

NAME: str = DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
MAX_INT = 2**31 - 1
PING_SECONDS = 20
"""Interval between pings of an open connection, as of a WebSocket."""
MIN_PING_SECONDS = 10
"""Clients may ping as often."""


class GrpcServer:
    """Serves an application over gRPC."""

    def __init__(self, app: Application, host: str, port: int) -> None:
        """Opens nothing yet.

        Args:
            app: the application.
            host: a numeric address.
            port: the port, which other workers of the service may listen on, too.
        """
        self._app, self._host, self._port = app, host, port
        self._streams = Streams()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Accepts calls.

        Raises:
            RuntimeError: the port cannot be used.
        """
        app, settings = self._app, self._app.settings
        bridge = Bridge(app, (self._host, self._port))
        methods = Methods(app, bridge)
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(method)
            for name, method in methods.all().items()
        }
        stream = InferStream(app, methods, bridge, self._streams)
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(stream.serve)
        health = Health(app, bridge, self._streams, frozenset((NAME,)))
        server = grpc.aio.server(
            handlers=(grpc.method_handlers_generic_handler(NAME, handlers), health.handler()),
            options=options_of(settings),
            maximum_concurrent_rpcs=settings.max_connections,
        )
        names = NAME, HEALTH, reflection.SERVICE_NAME
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            Reflection(names, bridge, self._streams, settings.stream_idle_seconds), server
        )
        host = f"[{self._host}]" if ":" in self._host else self._host
        server.add_insecure_port(f"{host}:{self._port}")
        await server.start()
        self._server = server

    async def stop(self, seconds: float) -> None:
        """Refuses new calls, ends streams, and returns once other calls are finished.

        Args:
            seconds: time after which calls in progress are cancelled.
        """
        self._streams.close()
        if self._server is not None:
            await self._server.stop(seconds)


def options_of(settings: Settings) -> list[tuple[str, int]]:
    """The limits of a server, as gRPC names them.

    A message may be twice as long as the limit, so that one just over it is refused with the
    service's own message; gRPC refuses longer ones unread.
    """
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", min(2 * settings.max_body_bytes, MAX_INT)),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", settings.max_header_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_header_bytes),
        ("grpc.max_connection_idle_ms", settings.keep_alive_seconds * 1000),
        ("grpc.keepalive_time_ms", PING_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", round(settings.send_seconds * 1000)),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_SECONDS * 1000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_PING_SECONDS * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
