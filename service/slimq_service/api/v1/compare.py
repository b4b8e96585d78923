"""The compare endpoint: runs the same observations through several variants.

Variants run one after the other, each like a lone request for actions, so that their times are
comparable. Agreement, difference and regret are relative to a reference, by default the policy's
baseline. Comparisons do not count as requests for actions, and only the batches they run show in
the variants' metrics.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from slimq.core.differences import find_differences
from slimq.core.errors import InvalidInputError, ObservationError, SlimqError
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.qfunction import QValues
from slimq_service.api.v1.codec import ActCodec
from slimq_service.errors import ConflictError, LimitError
from slimq_service.http.problems import Problem, problem_of
from slimq_service.http.query import read_query
from slimq_service.http.responses import JSON, Response, problem_response
from slimq_service.requests.call import CALL, Call
from slimq_service.requests.pipeline import Pipeline

PATH = "/v1/policies/{policy}/compare"
MAX_VARIANTS = 64
"""Maximum number of variants in a comparison."""
PARAMETERS = ("variants", "reference")


class CompareEndpoint:
    """Handles requests for comparisons."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._codec = ActCodec(pipeline.settings.max_batch, pipeline.settings.max_body_bytes)

    def routes(self) -> list[Route]:
        """The route for the FastAPI application."""
        return [
            Route(PATH, endpoint=self, methods=["POST"], include_in_schema=False, name="compare")
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request; errors become problem documents."""
        call = scope[CALL] = Call()
        response = self._respond(scope, receive, call)
        await self._pipeline.respond(
            call, scope, receive, send, response, problem_response, counted=False
        )

    async def _respond(self, scope: Scope, receive: Receive, call: Call) -> Response:
        pipeline, headers = self._pipeline, scope["headers"]
        catalogue = pipeline.catalogue
        policy = await catalogue.known_policy(scope["path_params"]["policy"])
        call.policy = policy.name
        variants, reference = named_variants(scope["query_string"])
        reference = reference or policy.baseline_variant
        names = variants or list(catalogue.variants(policy.name))
        names = list(dict.fromkeys([reference, *names]))
        if len(names) > MAX_VARIANTS:
            raise LimitError("variants", MAX_VARIANTS, str(len(names)), "variants")
        for name in names:
            catalogue.check_known(policy.name, name)
        content = self._codec.read_headers(headers)
        body = await pipeline.body(receive, headers, call)
        decoded = await pipeline.decode(
            self._codec, content, body, policy.observation, receive, call
        )
        if decoded.variant is not None:
            raise ConflictError("variant", "variants in the query only", "one in the body")
        observations, spec = decoded.observations(), policy.observation
        compared, failed = await self._compare(receive, call, names, observations, spec)
        return Response(200, JSON, render(policy.name, reference, compared, failed))

    async def _compare(
        self,
        receive: Receive,
        call: Call,
        names: list[str],
        observations: Observations,
        spec: ObservationSpec,
    ) -> tuple[list[dict[str, Any]], dict[str, Problem]]:
        """The rows of the variants, the reference first, and the problems of those that failed."""
        compared, failed = [], {}
        expected: QValues | None = None
        for name in names:
            try:
                row, q_values = await self._run(receive, call, name, observations, spec)
            except SlimqError as error:
                if expected is None:
                    raise
                failed[name] = problem_of(error)
                continue
            expected = q_values if expected is None else expected
            compared.append(row | difference(expected, q_values))
        return compared, failed

    async def _run(
        self,
        receive: Receive,
        call: Call,
        name: str,
        observations: Observations,
        spec: ObservationSpec,
    ) -> tuple[dict[str, Any], QValues]:
        """Runs one variant; returns its row and Q-values."""
        pipeline, policy = self._pipeline, str(call.policy)
        variant = await pipeline.variant(call, policy, name)
        if variant.policy.observation is not spec and variant.policy.observation != spec:
            raise ObservationError(
                "observations", "the policy's new layout", "the layout before a new version"
            )
        waited = call.queue / 1e9
        inference = await pipeline.compute(variant, observations, receive, waited, batched=False)
        q_values = np.ascontiguousarray(inference.q_values)
        row = {
            "variant": name,
            "sha256": variant.sha256,
            "actions": variant.numbers_of(q_values.argmax(axis=1).tolist()),
            "q_values": q_values,
            "seconds": {"queue": inference.queue_seconds, "inference": inference.seconds},
        }
        return row, q_values


def named_variants(query: bytes) -> tuple[list[str], str | None]:
    """The variants and the reference in a query string; no variants means all of the policy's.

    Raises:
        InvalidInputError: an unknown parameter, one given twice, or an empty name.
    """
    found: dict[str, str] = {}
    for name, value in read_query(query, PARAMETERS):
        if name in found:
            raise InvalidInputError(name, "one value", f"{found[name]!r} and {value!r}")
        found[name] = value
    variants = found["variants"].split(",") if "variants" in found else []
    for name in (*variants, found.get("reference", "-")):
        if not name:
            raise InvalidInputError(
                "variants", "comma-separated names", repr(query.decode("latin-1"))
            )
    return variants, found.get("reference")


def difference(expected: QValues, q_values: QValues) -> dict[str, float]:
    """Compares `(batch, actions)` Q-values with those of the reference.

    Agreement is the share of observations with the same greedy action, regret the mean loss of the
    variant's actions by the reference's Q-values.
    """
    found = find_differences(q_values, expected)
    return {
        "agreement": float(found.agrees.mean()),
        "regret": float(found.regrets.mean()),
        "mean_q_difference": float(found.errors.mean()),
        "max_q_difference": float(found.errors.max()),
    }


def render(
    policy: str, reference: str, compared: list[dict[str, Any]], failed: dict[str, Problem]
) -> bytes:
    """Renders the JSON of the response."""
    document = {"policy": policy, "reference": reference, "variants": compared, "failed": failed}
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
