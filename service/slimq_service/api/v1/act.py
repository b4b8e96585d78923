"""The act endpoint: observations in, actions and Q-values out, as a bare ASGI application.

Its routes are plain Starlette routes in the FastAPI application, with their schema in `openapi.py`.
"""

from __future__ import annotations

import numpy as np
import orjson
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from slimq.core.observation import Observations
from slimq_service.decoding.observations import JSON
from slimq_service.errors import ConflictError
from slimq_service.http.query import read_query
from slimq_service.http.responses import Answer, problem_answer
from slimq_service.inference.run import Inference
from slimq_service.requests.call import Call
from slimq_service.requests.pipeline import Hot
from slimq_service.requests.receive import receive_observations
from slimq_service.variants.loading import LoadedVariant

POLICY_PATH = "/v1/policies/{policy}/act"
VARIANT_PATH = "/v1/policies/{policy}/variants/{variant}/act"


class ActEndpoint:
    """Answers act requests."""

    def __init__(self, hot: Hot) -> None:
        self._hot = hot

    def routes(self) -> list[Route]:
        """The two routes: variant by path, or by body, query or the policy's default."""
        return [
            Route(path, endpoint=self, methods=["POST"], include_in_schema=False, name="act")
            for path in (POLICY_PATH, VARIANT_PATH)
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; every error becomes a problem document."""
        await self._hot.respond(scope, receive, send, self._answer, problem_answer)

    async def _answer(self, scope: Scope, receive: Receive, call: Call) -> Answer:
        variant, observations = await self._read(scope, receive, call)
        inference = await self._hot.infer(call, receive, variant, observations)
        with call.writing():
            return Answer(200, JSON.encode(), render_answer(variant, inference))

    async def _read(
        self, scope: Scope, receive: Receive, call: Call
    ) -> tuple[LoadedVariant, Observations]:
        """The variant and the observations, and nothing of the body that would be kept longer."""
        hot, names = self._hot, scope["path_params"]
        policy = await hot.catalogue.known_policy(names["policy"])
        call.policy, call.variant = policy.name, names.get("variant", policy.default_variant)
        asked = {"path": names.get("variant"), "query": query_variant(scope["query_string"])}
        default = hot.default_variant(policy, scope["headers"])
        call.variant = choose(asked, default)
        received = await receive_observations(hot, scope, receive, call, policy)
        chosen = choose({**asked, "body": received.envelope.variant}, default)
        variant = await hot.variant(call, policy.name, chosen)
        return variant, received.checked(variant.policy.observation)


def query_variant(query: bytes) -> str | None:
    """The variant that a query string names.

    Raises:
        InvalidInputError: an unknown parameter.
        ConflictError: different variants.
    """
    if not query:
        return None
    found: str | None = None
    for _, value in read_query(query, ("variant",)):
        if found is not None and found != value:
            raise ConflictError("variant", "one variant", f"{found!r} and {value!r} by query")
        found = value
    return found


def choose(asked: dict[str, str | None], default: str) -> str:
    """The one variant that was asked for, or the default.

    Args:
        asked: the variant by where it was named: path, query, body.
        default: the policy's default variant.

    Raises:
        ConflictError: two places name different variants; the message has both.
    """
    named = {place: name for place, name in asked.items() if name is not None}
    if len(set(named.values())) > 1:
        received = " and ".join(f"{name!r} by {place}" for place, name in named.items())
        raise ConflictError("variant", "the same variant everywhere", received)
    return next(iter(named.values()), default)


MIDDLE = b',"q_values":'


def render_start(variant: LoadedVariant) -> bytes:
    """The answer's JSON up to the actions, which are the same for every request of a variant."""
    head = {
        "policy": variant.policy.name,
        "variant": variant.manifest.name,
        "sha256": variant.sha256,
    }
    return orjson.dumps(head)[:-1] + b',"actions":'


def render_answer(variant: LoadedVariant, inference: Inference) -> bytes:
    """The answer's JSON; a Q-value is written so that it reads back as the same float32."""
    q_values = np.ascontiguousarray(inference.q_values)
    actions = orjson.dumps(q_values.argmax(axis=1), option=orjson.OPT_SERIALIZE_NUMPY)
    values = orjson.dumps(q_values, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join((render_start(variant), actions, MIDDLE, values, b"}"))
