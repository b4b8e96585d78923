"""The wire format of infer over gRPC: raw or typed contents."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from typing import Any

from slimq.core.errors import InvalidInputError, ObservationError, SlimqError
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.qfunction import QValues
from slimq_service.api.v2.codec import MAX_INLINE_BINARY_BYTES, MAX_INLINE_BYTES
from slimq_service.api.v2.request import Limits, aligned, read_document
from slimq_service.api.v2.tensors import DATATYPES, INPUT
from slimq_service.decoding.nested_lists import to_array
from slimq_service.errors import ConflictError
from slimq_service.grpc.heads import Head, Heads
from slimq_service.grpc.open_inference_pb2 import ModelInferRequest
from slimq_service.grpc.responses import ResponseOptions, Responses, in_stream
from slimq_service.http.bodies import Headers
from slimq_service.http.error_responses import v2_error
from slimq_service.http.problems import Problem
from slimq_service.http.responses import Response
from slimq_service.requests.codec import Decoded
from slimq_service.variants.loading import LoadedVariant

MEDIA_TYPE = b"application/grpc+proto"
CONTENTS = {"uint8": "uint_contents", "int32": "int_contents", "float32": "fp32_contents"}
"""The field of typed contents for each type of observation."""


@dataclass(frozen=True)
class Shared:
    """What the codecs of a process share: limits, and what was parsed or encoded before."""

    limits: Limits
    heads: Heads = field(default_factory=Heads)
    responses: Responses = field(default_factory=Responses)


class MessageCodec:
    """The `Codec` of one request, whose model is known from its head or because it was parsed."""

    policy_key = "model"
    variant_key = "version"
    takes_query = False

    __slots__ = ("_head", "_request", "_shared", "in_stream")

    def __init__(
        self,
        shared: Shared,
        head: Head | None,
        request: ModelInferRequest | None,
        *,
        in_stream: bool,
    ) -> None:
        """Takes the request.

        Args:
            shared: what the codecs of a process share.
            head: of the request, None if unknown.
            request: the request, None if its head is known.
            in_stream: whether it is part of a stream.
        """
        self._shared, self._head, self._request, self.in_stream = shared, head, request, in_stream

    def read_headers(self, headers: Headers) -> None:
        """See `Codec.read_headers`; gRPC has decompressed the message."""

    def is_slow(self, content: None, size: int) -> bool:  # noqa: ARG002
        """See `Codec.is_slow`."""
        is_raw = self._request is None or len(self._request.raw_input_contents) > 0
        return size > (MAX_INLINE_BINARY_BYTES if is_raw else MAX_INLINE_BYTES)

    def decode(self, content: None, body: bytes, spec: ObservationSpec) -> Decoded:  # noqa: ARG002
        """See `Codec.decode`; errors are reported once the version is known."""
        head = self._head
        if head is not None and head.spec is spec:
            with contextlib.suppress(SlimqError):  # reported by the parse
                observations = aligned(spec.from_bytes(memoryview(body)[head.length :]))
                return Decoded(observations, options=ResponseOptions("", head.outputs, head.is_raw))
        request = self._request or ModelInferRequest.FromString(body)

        def read_tensor(entry: dict[str, Any], shape: tuple[int, ...]) -> Observations:  # noqa: ARG001
            return _read_contents(request, shape, spec)

        try:
            found = read_document(_document(request), spec, self._shared.limits, read_tensor)
        except SlimqError as error:
            return Decoded(error)
        self._shared.heads.keep(body, request, spec, found.outputs)
        is_raw = len(request.raw_input_contents) > 0
        options = ResponseOptions(request.id, found.outputs, is_raw)
        return Decoded(found.observations, options=options)

    def encode(
        self, variant: LoadedVariant, decoded: Decoded, q_values: QValues, actions: list[int]
    ) -> Response:
        """See `Codec.encode`; returns the requested outputs, raw if the input was raw."""
        numbers = variant.numbers_of(actions)
        message = self._shared.responses.encode(variant, decoded.options, q_values, numbers)
        if self.in_stream:
            message = in_stream(message)
        return Response(200, MEDIA_TYPE, message)

    def error(self, problem: Problem) -> Response:
        """Encodes an error like all of `/v2`; the caller turns it into a status."""
        return v2_error(problem)


def parameters_of(entry: Any) -> dict[str, Any]:
    """The parameters of a message; None for one without a value."""
    return {
        name: None
        if (kind := value.WhichOneof("parameter_choice")) is None
        else getattr(value, kind)
        for name, value in entry.parameters.items()
    }


def _document(request: ModelInferRequest) -> dict[str, Any]:
    """The request with the keys of the JSON, without contents."""
    return {
        "id": request.id,
        "parameters": parameters_of(request),
        "inputs": [
            {
                "name": entry.name,
                "datatype": entry.datatype,
                "shape": list(entry.shape),
                "parameters": parameters_of(entry),
            }
            for entry in request.inputs
        ],
        "outputs": [
            {"name": entry.name, "parameters": parameters_of(entry)} for entry in request.outputs
        ],
    }


def _read_contents(
    request: ModelInferRequest, shape: tuple[int, ...], spec: ObservationSpec
) -> Observations:
    raw, entry = request.raw_input_contents, request.inputs[0]
    if not raw:
        return _read_typed(entry.contents, shape, spec)
    if entry.HasField("contents"):
        expected = "no contents together with raw_input_contents"
        raise ConflictError("inputs[0].contents", expected, "both")
    if len(raw) != 1:
        raise InvalidInputError("raw_input_contents", "one element", f"{len(raw)} elements")
    needed = shape[0] * spec.item_bytes
    if len(raw[0]) != needed:
        expected = f"{needed} bytes (shape {list(shape)}, {DATATYPES[spec.dtype]})"
        raise InvalidInputError("raw_input_contents[0]", expected, f"{len(raw[0])} bytes")
    return spec.from_bytes(raw[0], INPUT)


def _read_typed(contents: Any, shape: tuple[int, ...], spec: ObservationSpec) -> Observations:
    expected, count = CONTENTS[spec.dtype], math.prod(shape)
    place = f"inputs[0].contents.{expected}"
    for found, _ in contents.ListFields():
        if found.name != expected:
            raise InvalidInputError("inputs[0].contents", expected, found.name)
    values = getattr(contents, expected)
    if len(values) != count:
        wanted = f"{count} numbers (shape {list(shape)})"
        raise ObservationError(place, wanted, f"{len(values)} numbers")
    return spec.check(to_array(list(values), spec).reshape(shape), place)
