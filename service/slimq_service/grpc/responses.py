"""The responses of infer, most of whose bytes are the same for all requests to a variant."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from slimq.core.qfunction import QValues
from slimq_service.api.v2.request import Output
from slimq_service.api.v2.tensors import ACTIONS, DATATYPES_OF_OUTPUTS
from slimq_service.grpc.open_inference_pb2 import ModelInferResponse, ModelStreamInferResponse
from slimq_service.variants.loading import LoadedVariant

FINAL_RESPONSE = "triton_final_response"
"""Parameter that tells clients of streams that no response to the same request follows."""
MAX_HEADS = 64
"""Kept beginnings of responses, which are forgotten when there are more."""
ID = ModelInferResponse.ID_FIELD_NUMBER
RAW = ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER
INFER_RESPONSE = ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER
LENGTH_DELIMITED = 2
"""Wire type of strings, bytes and messages."""

_Key = tuple[str, str, tuple[Output, ...], tuple[int, ...]]


class ResponseOptions(NamedTuple):
    """The id to repeat, the outputs to return, and whether they are raw."""

    id: str
    outputs: tuple[Output, ...]
    is_raw: bool


class Responses:
    """Encodes responses.

    A message may be sent in parts: the parser appends the elements of a repeated field. So what
    precedes raw contents is encoded once.
    """

    def __init__(self) -> None:
        self._heads: dict[_Key, bytes] = {}

    def encode(
        self,
        variant: LoadedVariant,
        options: ResponseOptions,
        q_values: QValues,
        actions: list[int],
    ) -> bytes:
        """A `ModelInferResponse`.

        Args:
            variant: the variant that served the request.
            options: of the request.
            q_values: `(batch, actions)`, finite.
            actions: the number of the greedy action of each row.
        """
        if not options.is_raw:
            return _typed(variant, options, q_values, actions).SerializeToString()
        key = variant.policy.name, variant.manifest.name, options.outputs, q_values.shape
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= MAX_HEADS:
                self._heads.clear()
            head = self._heads[key] = _described(variant, options, q_values).SerializeToString()
        parts = [head]
        if options.id:
            parts.append(delimited(ID, options.id.encode()))
        for name, _ in options.outputs:
            array = np.array(actions, "<i8") if name == ACTIONS else q_values.astype("<f4", "C")
            parts.append(delimited(RAW, array.tobytes()))
        return b"".join(parts)


def in_stream(message: bytes) -> bytes:
    """A `ModelStreamInferResponse` with an encoded response."""
    return delimited(INFER_RESPONSE, message + _FINAL)


def delimited(number: int, payload: bytes) -> bytes:
    """An encoded field of strings, bytes or messages; its number is below 16."""
    length = len(payload)
    head = bytearray((number << 3 | LENGTH_DELIMITED,))
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + payload


def _described(
    variant: LoadedVariant, options: ResponseOptions, q_values: QValues
) -> ModelInferResponse:
    """A response without id and contents."""
    response = ModelInferResponse(
        model_name=variant.policy.name, model_version=variant.manifest.name
    )
    for name, _ in options.outputs:
        shape = q_values.shape[:1] if name == ACTIONS else q_values.shape
        response.outputs.add(name=name, datatype=DATATYPES_OF_OUTPUTS[name], shape=shape)
    return response


def _typed(
    variant: LoadedVariant, options: ResponseOptions, q_values: QValues, actions: list[int]
) -> ModelInferResponse:
    response = _described(variant, options, q_values)
    response.id = options.id
    for output in response.outputs:
        if output.name == ACTIONS:
            output.contents.int64_contents.extend(actions)
        else:
            output.contents.fp32_contents.extend(q_values.ravel().tolist())
    return response


def _final() -> bytes:
    response = ModelInferResponse()
    response.parameters[FINAL_RESPONSE].bool_param = True
    return response.SerializeToString()


_FINAL = _final()
