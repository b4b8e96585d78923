"""The inference endpoint of the protocol, as a bare ASGI application.

No Content-Type is looked at: tritonclient sends none.
"""

from __future__ import annotations

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from slimq_service.api.v2.framing import json_length
from slimq_service.api.v2.request import InferRequest, Limits, read_request
from slimq_service.api.v2.response import render
from slimq_service.http.content_encoding import encoding_of
from slimq_service.http.error_responses import v2_error
from slimq_service.http.responses import Answer
from slimq_service.requests.call import Call
from slimq_service.requests.pipeline import Hot
from slimq_service.variants.loading import LoadedVariant

MODEL_PATH = "/v2/models/{model}/infer"
VERSION_PATH = "/v2/models/{model}/versions/{version}/infer"
LARGE_BYTES = 64 * 1024
"""A longer body is read in a thread, as is every compressed one: it may hold far more."""


class InferEndpoint:
    """Answers inference requests."""

    def __init__(self, hot: Hot) -> None:
        self._hot = hot
        self._limits = Limits(hot.settings.max_batch, hot.settings.max_body_bytes)

    def routes(self) -> list[Route]:
        """The two routes: by version, or the policy's default variant."""
        return [
            Route(path, endpoint=self, methods=["POST"], include_in_schema=False, name="infer")
            for path in (MODEL_PATH, VERSION_PATH)
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        await self._hot.respond(scope, receive, send, self._answer, v2_error)

    async def _answer(self, scope: Scope, receive: Receive, call: Call) -> Answer:
        variant, request = await self._read(scope, receive, call)
        inference = await self._hot.infer(call, receive, variant, request.observations)
        with call.writing():
            names = variant.policy.name, variant.manifest.name
            return render(*names, request, inference.q_values)

    async def _read(
        self, scope: Scope, receive: Receive, call: Call
    ) -> tuple[LoadedVariant, InferRequest]:
        """The request, and nothing else of its body that would be kept while it waits."""
        hot, names, headers = self._hot, scope["path_params"], scope["headers"]
        policy = await hot.catalogue.known_policy(names["model"])
        call.policy, call.variant = policy.name, names.get("version", policy.default_variant)
        version = names.get("version") or hot.default_variant(policy, headers)
        encoding, length = encoding_of(headers), json_length(headers)
        body = await hot.body(receive, headers, call)
        variant = await hot.variant(call, policy.name, version)
        arguments = body, encoding, length, variant.policy.observation, self._limits
        if encoding is not None or len(body) > LARGE_BYTES:
            size = len(body)
            return variant, await hot.read(call, receive, size, read_request, *arguments)
        with call.reading():
            return variant, read_request(*arguments)
