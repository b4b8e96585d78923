"""The wire format of infer: JSON, or JSON followed by binary tensors.

Clients that do not number their requests send the same JSON before every binary tensor, so its
parsed content is cached.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import orjson

from slimq.core.errors import SlimqError
from slimq.core.observation import ObservationSpec
from slimq.core.qfunction import QValues
from slimq_service.api.v2.framing import LENGTH_HEADER, json_length
from slimq_service.api.v2.request import (
    InferRequest,
    Limits,
    Output,
    aligned,
    read_request,
)
from slimq_service.api.v2.tensors import ACTIONS, DATATYPES_OF_OUTPUTS
from slimq_service.http.bodies import Headers
from slimq_service.http.content_encoding import encoding_of
from slimq_service.http.error_responses import v2_error
from slimq_service.http.problems import Problem
from slimq_service.http.responses import JSON, Response
from slimq_service.requests.codec import Decoded
from slimq_service.variants.loading import LoadedVariant

BINARY = b"application/octet-stream"
MAX_INLINE_BYTES = 64 * 1024
"""Longer bodies, and all compressed bodies, are decoded in a thread."""
MAX_INLINE_BINARY_BYTES = 256 * 1024
"""The same limit for bodies with binary tensors, which need no parsing."""
MAX_CACHED_HEAD_BYTES = 1024
MAX_CACHED_HEADS = 64
"""Limits of the cache, which is cleared when it is full."""


class Framing(NamedTuple):
    """A body's content encoding, and the length of its JSON if the request gives it."""

    encoding: str | None
    length: int | None


class ResponseOptions(NamedTuple):
    """The id to repeat and the outputs to return."""

    id: str | None
    outputs: tuple[Output, ...]


class _CachedHead(NamedTuple):
    """The parsed JSON before a binary tensor."""

    spec: ObservationSpec
    batch: int
    options: ResponseOptions


class InferCodec:
    """The `Codec` of infer."""

    policy_key = "model"
    variant_key = "version"
    takes_query = False

    def __init__(self, limits: Limits) -> None:
        """Sets the limits."""
        self._limits = limits
        self._heads: dict[bytes, _CachedHead] = {}

    def read_headers(self, headers: Headers) -> Framing:
        """Reads content encoding and JSON length, but no Content-Type: tritonclient sends none."""
        return Framing(encoding_of(headers), json_length(headers))

    def is_slow(self, content: Framing, size: int) -> bool:
        """See `Codec.is_slow`."""
        if content.encoding is not None:
            return True
        limit = MAX_INLINE_BINARY_BYTES if content.length is not None else MAX_INLINE_BYTES
        return size > limit

    def decode(self, content: Framing, body: bytes, spec: ObservationSpec) -> Decoded:
        """See `Codec.decode`; errors are reported once the version is known."""
        length = content.length or 0
        head = b""
        if content.encoding is None and 0 < length <= MAX_CACHED_HEAD_BYTES and length < len(body):
            head = body[:length]
            known = self._heads.get(head)
            if known is not None and known.spec is spec:
                decoded = _decode_binary(body, length, known)
                if decoded is not None:
                    return decoded
        try:
            request = read_request(body, content.encoding, content.length, spec, self._limits)
        except SlimqError as error:
            return Decoded(error)
        if head and request.id is None:
            self._cache_head(head, spec, request)
        options = ResponseOptions(request.id, request.outputs)
        return Decoded(request.observations, options=options)

    def encode(
        self, variant: LoadedVariant, decoded: Decoded, q_values: QValues, actions: list[int]
    ) -> Response:
        """See `Codec.encode`; returns the requested outputs, in the requested order."""
        options: ResponseOptions = decoded.options
        q_values = np.ascontiguousarray(q_values, dtype="<f4")
        actions = variant.numbers_of(actions)
        outputs: list[dict[str, Any]] = []
        tensors: list[bytes] = []
        for name, binary in options.outputs:
            has_actions = name == ACTIONS
            entry: dict[str, Any] = {
                "name": name,
                "datatype": DATATYPES_OF_OUTPUTS[name],
                "shape": (len(actions),) if has_actions else q_values.shape,
            }
            if binary:
                array = np.array(actions, "<i8") if has_actions else q_values
                tensors.append(array.tobytes())
                entry["parameters"] = {"binary_data_size": array.nbytes}
            else:
                entry["data"] = actions if has_actions else q_values.ravel()
            outputs.append(entry)
        document: dict[str, Any] = {
            "model_name": variant.policy.name,
            "model_version": variant.manifest.name,
            "outputs": outputs,
        }
        if options.id is not None:
            document["id"] = options.id
        head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
        if not tensors:
            return Response(200, JSON, head)
        length = (LENGTH_HEADER, b"%d" % len(head))
        return Response(200, BINARY, b"".join((head, *tensors)), (length,))

    def error(self, problem: Problem) -> Response:
        """Encodes an error in the protocol's format."""
        return v2_error(problem)

    def _cache_head(self, head: bytes, spec: ObservationSpec, request: InferRequest) -> None:
        """Caches the parsed JSON before a valid binary tensor."""
        if len(self._heads) >= MAX_CACHED_HEADS:
            self._heads.clear()
        options = ResponseOptions(None, request.outputs)
        self._heads[head] = _CachedHead(spec, len(request.observations), options)


def _decode_binary(body: bytes, length: int, known: _CachedHead) -> Decoded | None:
    """Decodes the tensor after a cached head, or returns None if it does not match the head."""
    try:
        observations = known.spec.from_bytes(memoryview(body)[length:])
    except SlimqError:  # the full parse reports the error
        return None
    if len(observations) != known.batch:
        return None
    return Decoded(aligned(observations), options=known.options)
