"""Requests with observations as JSON, raw bytes or npy, and their responses in JSON."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import orjson

from slimq.core.errors import InvalidInputError
from slimq.core.observation import ObservationSpec
from slimq.core.qfunction import QValues
from slimq_service.decoding.observations import JSON, MEDIA_TYPES, parse
from slimq_service.http.bodies import Headers, media_type
from slimq_service.http.content_encoding import decompress, encoding_of
from slimq_service.http.problems import Problem
from slimq_service.http.responses import JSON as RAW_JSON
from slimq_service.http.responses import Response, problem_response
from slimq_service.requests.codec import Decoded
from slimq_service.variants.loading import LoadedVariant

LARGE_JSON_BYTES = 256 * 1024
"""A longer JSON body is decoded in a thread, as is every compressed one."""


class Content(NamedTuple):
    """A body's media type, and how it is compressed if it is."""

    media_type: str
    encoding: str | None


class ActCodec:
    """The `Codec` of act, and of whatever takes observations as act does."""

    policy_key = "policy"
    variant_key = "variant"
    takes_query = True

    def __init__(self, max_batch: int, max_body_bytes: int) -> None:
        """Takes requests within these limits, that of bytes once they are decompressed."""
        self._max_batch, self._max_body_bytes = max_batch, max_body_bytes

    def read_headers(self, headers: Headers) -> Content:
        """Media type and encoding."""
        return Content(media_type(headers, MEDIA_TYPES), encoding_of(headers))

    def is_slow(self, content: Content, size: int) -> bool:
        """As `Codec.is_slow`."""
        long = content.media_type == JSON and size > LARGE_JSON_BYTES
        return long or content.encoding is not None

    def decode(self, content: Content, body: bytes, spec: ObservationSpec) -> Decoded:
        """As `Codec.decode`; invalid observations are reported once the variant is known."""
        if content.encoding is not None:
            body = decompress(body, content.encoding, self._max_body_bytes)
        envelope = parse(content.media_type, body, spec, self._max_batch)
        try:
            observations = envelope.observations(spec, self._max_batch)
        except InvalidInputError as error:
            return Decoded(error, envelope.variant)
        return Decoded(observations, envelope.variant)

    def encode(
        self,
        variant: LoadedVariant,
        decoded: Decoded,  # noqa: ARG002
        q_values: QValues,
        actions: list[int],
    ) -> Response:
        """As `Codec.encode`; a Q-value is written so that it reads back as the same float32."""
        return Response(200, RAW_JSON, render_answer(variant, q_values, actions))

    def error(self, problem: Problem) -> Response:
        """A problem document."""
        return problem_response(problem)


def render_answer(variant: LoadedVariant, q_values: QValues, actions: Any) -> bytes:
    """The response's JSON.

    Args:
        variant: which one answered; its names are slugs, which JSON need not escape.
        q_values: `(batch, actions)`.
        actions: the greedy action of each row.
    """
    policy, name, sha256 = variant.policy.name, variant.manifest.name, variant.sha256
    head = f'{{"policy":"{policy}","variant":"{name}","sha256":"{sha256}","actions":'
    values = orjson.dumps(np.ascontiguousarray(q_values), option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join((head.encode(), orjson.dumps(actions), b',"q_values":', values, b"}"))
