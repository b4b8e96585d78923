"""The methods of the protocol that answer once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, TypeVar

import orjson
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from starlette.types import Receive, Scope, Send

from slimq.core.errors import InvalidInputError
from slimq_service.api.v2.request import Limits
from slimq_service.app import Application
from slimq_service.grpc import open_inference_pb2 as pb
from slimq_service.grpc.bridge import Bridge, Exchange, Failure, escape
from slimq_service.grpc.codec import MessageCodec, Shared, parameters_of

M = TypeVar("M", bound=Message)
Method = Callable[[bytes, Any], Awaitable[bytes]]
CODEC = "slimq.codec"
"""Scope key that holds the codec of a request for actions."""
VARIANTS = "variants"
CACHED_PATHS = 256
NOT_READY = (404, 503)


class Methods:
    """The methods, by their names in the protocol; each takes a message and a context."""

    def __init__(self, app: Application, bridge: Bridge) -> None:
        self._bridge, self._pipeline = bridge, app.pipeline
        self._shared = Shared(Limits(app.settings.max_batch, app.settings.max_body_bytes))
        self._infer = app.protect(self._act)

    def all(self) -> dict[str, Method]:
        """The methods, with failures as statuses."""
        found: dict[str, Callable[[bytes, Any], Awaitable[bytes]]] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "ModelInfer": self._model_infer,
            "RepositoryIndex": self._repository_index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        return {name: _with_status(method) for name, method in found.items()}

    async def infer(self, message: bytes, context: Any, *, in_stream: bool) -> Exchange:
        """Answers one request for actions.

        Args:
            message: a `ModelInferRequest`.
            context: of its call.
            in_stream: whether it is one of several requests of the call.

        Raises:
            Failure: it was not successful.
        """
        head, request = self._shared.heads.find(message), None
        if head is not None:
            model, version = head.model, head.version
        else:
            request = self._bridge.parse(pb.ModelInferRequest, message)
            model, version = request.model_name, request.model_version
        names = {"model": model, "version": version} if version else {"model": model}
        path = infer_path(model, version)
        scope = self._bridge.scope(context, "POST", path, len(message))
        scope["path_params"] = names
        scope[CODEC] = MessageCodec(self._shared, head, request, in_stream=in_stream)
        return await self._bridge.exchange(self._infer, scope, message)

    def _act(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self._pipeline.act(scope[CODEC], scope, receive, send)

    async def _model_infer(self, message: bytes, context: Any) -> bytes:
        return (await self.infer(message, context, in_stream=False)).body

    async def _server_live(self, message: bytes, context: Any) -> bytes:
        self._bridge.parse(pb.ServerLiveRequest, message)
        document = await self._bridge.ask(context, "GET", "/v2/health/live")
        return pb.ServerLiveResponse(live=document["live"]).SerializeToString()

    async def _server_ready(self, message: bytes, context: Any) -> bytes:
        self._bridge.parse(pb.ServerReadyRequest, message)
        ready = await self._is_ready(context, "/v2/health/ready")
        return pb.ServerReadyResponse(ready=ready).SerializeToString()

    async def _server_metadata(self, message: bytes, context: Any) -> bytes:
        self._bridge.parse(pb.ServerMetadataRequest, message)
        document = await self._bridge.ask(context, "GET", "/v2")
        return _encode(pb.ServerMetadataResponse, document)

    async def _model_ready(self, message: bytes, context: Any) -> bytes:
        request = self._bridge.parse(pb.ModelReadyRequest, message)
        ready = await self._is_ready(context, f"{self._model(request)}/ready")
        return pb.ModelReadyResponse(ready=ready).SerializeToString()

    async def _model_metadata(self, message: bytes, context: Any) -> bytes:
        request = self._bridge.parse(pb.ModelMetadataRequest, message)
        document = await self._bridge.ask(context, "GET", self._model(request))
        return _encode(pb.ModelMetadataResponse, document)

    async def _model_config(self, message: bytes, context: Any) -> bytes:
        request = self._bridge.parse(pb.ModelConfigRequest, message)
        document = await self._bridge.ask(context, "GET", f"{self._model(request)}/config")
        return _encode(pb.ModelConfigResponse, {"config": document})

    async def _model_statistics(self, message: bytes, context: Any) -> bytes:
        request = self._bridge.parse(pb.ModelStatisticsRequest, message)
        is_any = not request.name and not request.version
        model = "/v2/models" if is_any else self._model(request)
        document = await self._bridge.ask(context, "GET", f"{model}/stats")
        return _encode(pb.ModelStatisticsResponse, document)

    async def _repository_index(self, message: bytes, context: Any) -> bytes:
        request = self._bridge.parse(pb.RepositoryIndexRequest, message)
        body = orjson.dumps({"ready": request.ready})
        entries = await self._bridge.ask(context, "POST", "/v2/repository/index", body)
        return _encode(pb.RepositoryIndexResponse, {"models": entries})

    async def _load(self, message: bytes, context: Any) -> bytes:
        request = self._bridge.parse(pb.RepositoryModelLoadRequest, message)
        name = await self._control(context, request, "load")
        response = pb.RepositoryModelLoadResponse(model_name=name, isLoaded=True)
        return response.SerializeToString()

    async def _unload(self, message: bytes, context: Any) -> bytes:
        request = self._bridge.parse(pb.RepositoryModelUnloadRequest, message)
        name = await self._control(context, request, "unload")
        response = pb.RepositoryModelUnloadResponse(model_name=name, isUnloaded=True)
        return response.SerializeToString()

    async def _control(self, context: Any, request: Any, verb: str) -> str:
        """Loads or unloads a model; returns its name."""
        name: str = request.model_name or request.repository_name
        parameters = {k: _json_value(value) for k, value in parameters_of(request).items()}
        named = parameters.get(VARIANTS)
        if isinstance(named, str):
            parameters[VARIANTS] = [one for one in map(str.strip, named.split(",")) if one]
        body = orjson.dumps({"parameters": parameters})
        path = f"/v2/repository/models/{self._segment(name, 'model_name')}/{verb}"
        await self._bridge.ask(context, "POST", path, body)
        return name

    async def _is_ready(self, context: Any, path: str) -> bool:
        try:
            await self._bridge.ask(context, "GET", path)
        except Failure as failure:
            if failure.status in NOT_READY:
                return False
            raise
        return True

    def _model(self, request: Any) -> str:
        """The path of a model or of one of its versions."""
        path = f"/v2/models/{self._segment(request.name, 'name')}"
        return f"{path}/versions/{escape(request.version)}" if request.version else path

    def _segment(self, name: str, field: str) -> str:
        if not name:
            raise self._bridge.refuse(InvalidInputError(field, "the name of a model", "nothing"))
        return escape(name)


def _with_status(method: Method) -> Method:
    async def call(message: bytes, context: Any) -> bytes:
        try:
            return await method(message, context)
        except Failure as failure:
            await failure.abort(context)

    return call


@lru_cache(CACHED_PATHS)
def infer_path(model: str, version: str) -> str:
    """The path of infer for a model, or for one of its versions."""
    segment = f"/versions/{escape(version)}" if version else ""
    return f"/v2/models/{escape(model)}{segment}/infer"


def _encode(kind: type[M], document: Any) -> bytes:
    return ParseDict(document, kind(), ignore_unknown_fields=True).SerializeToString()


def _json_value(value: Any) -> Any:
    return None if isinstance(value, bytes) else value
