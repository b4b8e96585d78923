"""The wire format of act: requests in JSON, raw bytes or npy, responses in JSON."""

from __future__ import annotations

from typing import NamedTuple

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

MAX_INLINE_JSON_BYTES = 256 * 1024
"""Longer JSON bodies, and all compressed bodies, are decoded in a thread."""


class Content(NamedTuple):
    """A body's media type, and its content encoding if it is compressed."""

    media_type: str
    encoding: str | None


class ActCodec:
    """The `Codec` of act; compare decodes its requests with it, too."""

    policy_key = "policy"
    variant_key = "variant"
    takes_query = True

    def __init__(self, max_batch: int, max_body_bytes: int) -> None:
        """Sets the limits; that of bytes applies to decompressed bodies."""
        self._max_batch, self._max_body_bytes = max_batch, max_body_bytes

    def read_headers(self, headers: Headers) -> Content:
        """Reads the media type and the content encoding."""
        return Content(media_type(headers, MEDIA_TYPES), encoding_of(headers))

    def is_slow(self, content: Content, size: int) -> bool:
        """See `Codec.is_slow`."""
        long = content.media_type == JSON and size > MAX_INLINE_JSON_BYTES
        return long or content.encoding is not None

    def decode(self, content: Content, body: bytes, spec: ObservationSpec) -> Decoded:
        """See `Codec.decode`; invalid observations are reported once the variant is known."""
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
        """See `Codec.encode`; Q-values round-trip as float32."""
        return Response(200, RAW_JSON, render_response(variant, q_values, actions))

    def error(self, problem: Problem) -> Response:
        """Encodes a problem document."""
        return problem_response(problem)


def render_response(variant: LoadedVariant, q_values: QValues, actions: list[int]) -> bytes:
    """Renders the JSON of a response.

    Args:
        variant: the variant that was run; its names are slugs and need no escaping.
        q_values: `(batch, actions)`.
        actions: the greedy action of each row.
    """
    policy, name, sha256 = variant.policy.name, variant.manifest.name, variant.sha256
    head = f'{{"policy":"{policy}","variant":"{name}","sha256":"{sha256}","actions":'
    values = orjson.dumps(np.ascontiguousarray(q_values), option=orjson.OPT_SERIALIZE_NUMPY)
    numbers = orjson.dumps(variant.numbers_of(actions))
    return b"".join((head.encode(), numbers, b',"q_values":', values, b"}"))
