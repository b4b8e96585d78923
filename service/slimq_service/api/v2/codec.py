"""Requests and responses of inference, in JSON or in JSON followed by binary tensors.

Clients send the JSON before a binary tensor again and again, unless they number their requests:
what was read from it is kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
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
from slimq_service.api.v2.tensors import ACTIONS, DATATYPES_OF_OUTPUTS, Q_VALUES
from slimq_service.http.bodies import Headers
from slimq_service.http.content_encoding import encoding_of
from slimq_service.http.error_responses import v2_error
from slimq_service.http.problems import Problem
from slimq_service.http.responses import JSON, Response
from slimq_service.requests.codec import Decoded
from slimq_service.variants.loading import LoadedVariant

BINARY = b"application/octet-stream"
LARGE_BYTES = 64 * 1024
"""A longer body is decoded in a thread, as is every compressed one: it may hold far more."""
MAX_LARGE_BINARY = 256 * 1024
"""But not one of this length whose JSON is known: its numbers are taken as they are."""
MAX_KEPT_HEAD = 1024
"""Bytes of JSON that is kept."""
MAX_KEPT_HEADS = 64
"""Where there are more, all are forgotten."""


class Framing(NamedTuple):
    """How a body is compressed, and the length of its JSON if the request gives one."""

    encoding: str | None
    length: int | None


class Reply(NamedTuple):
    """What the response depends on beside the Q-values."""

    id: str | None
    outputs: tuple[Output, ...]


class _KnownHead(NamedTuple):
    """What the JSON before a binary tensor says."""

    spec: ObservationSpec
    batch: int
    reply: Reply


class InferCodec:
    """The `Codec` of the protocol's inference."""

    policy_key = "model"
    variant_key = "version"
    takes_query = False

    def __init__(self, limits: Limits) -> None:
        """Takes requests within these limits."""
        self._limits = limits
        self._heads: dict[bytes, _KnownHead] = {}

    def read_headers(self, headers: Headers) -> Framing:
        """Compression and length of the JSON; tritonclient sends no Content-Type."""
        return Framing(encoding_of(headers), json_length(headers))

    def is_slow(self, content: Framing, size: int) -> bool:
        """As `Codec.is_slow`."""
        if content.encoding is not None:
            return True
        most = MAX_LARGE_BINARY if content.length is not None else LARGE_BYTES
        return size > most

    def decode(self, content: Framing, body: bytes, spec: ObservationSpec) -> Decoded:
        """As `Codec.decode`; whatever is wrong is reported once the version is known."""
        length = content.length or 0
        head = b""
        if content.encoding is None and 0 < length <= MAX_KEPT_HEAD and length < len(body):
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
            self._keep(head, spec, request)
        return Decoded(request.observations, reply=Reply(request.id, request.outputs))

    def encode(
        self, variant: LoadedVariant, decoded: Decoded, q_values: QValues, actions: list[int]
    ) -> Response:
        """As `Codec.encode`, with the outputs that were asked for, in that order."""
        reply: Reply = decoded.reply
        values: dict[str, npt.NDArray[Any]] = {
            Q_VALUES: np.ascontiguousarray(q_values, dtype="<f4"),
            ACTIONS: np.array(actions, "<i8"),
        }
        outputs: list[dict[str, Any]] = []
        tensors: list[bytes] = []
        for name, binary in reply.outputs:
            array = values[name]
            entry: dict[str, Any] = {
                "name": name,
                "datatype": DATATYPES_OF_OUTPUTS[name],
                "shape": array.shape,
            }
            if binary:
                tensors.append(array.tobytes())
                entry["parameters"] = {"binary_data_size": array.nbytes}
            else:
                entry["data"] = array.ravel()
            outputs.append(entry)
        document: dict[str, Any] = {
            "model_name": variant.policy.name,
            "model_version": variant.manifest.name,
            "outputs": outputs,
        }
        if reply.id is not None:
            document["id"] = reply.id
        head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
        if not tensors:
            return Response(200, JSON, head)
        length = (LENGTH_HEADER, b"%d" % len(head))
        return Response(200, BINARY, b"".join((head, *tensors)), (length,))

    def error(self, problem: Problem) -> Response:
        """The protocol's form of an error."""
        return v2_error(problem)

    def _keep(self, head: bytes, spec: ObservationSpec, request: InferRequest) -> None:
        """Keeps what the JSON before a valid binary tensor says."""
        if len(self._heads) >= MAX_KEPT_HEADS:
            self._heads.clear()
        reply = Reply(None, request.outputs)
        self._heads[head] = _KnownHead(spec, len(request.observations), reply)


def _decode_binary(body: bytes, length: int, known: _KnownHead) -> Decoded | None:
    """The tensor behind a known head, None where it is not what the head says."""
    try:
        observations = known.spec.from_bytes(memoryview(body)[length:])
    except SlimqError:  # reported by whoever reads all of it
        return None
    if len(observations) != known.batch:
        return None
    return Decoded(aligned(observations), reply=known.reply)
