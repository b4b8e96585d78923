"""Requests that differ in their numbers only, which need no parsing again.

Clients that do not number their requests send the same bytes before every tensor: names, shape and
length. Where the tensor is the end of the message, as raw contents or as packed FP32 contents, the
bytes before it are looked up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from slimq.core.observation import ObservationSpec
from slimq_service.api.v2.request import Output
from slimq_service.grpc.open_inference_pb2 import ModelInferRequest

MAX_BYTES = 1024
"""Of a head that is kept."""
MAX_HEADS = 64
"""The heads are forgotten when there are more."""


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of the requests that begin with the same bytes.

    Attributes:
        length: of those bytes.
        model: the policy.
        version: the variant; empty if not named.
        spec: the layout of one observation.
        batch: the number of observations.
        outputs: the requested outputs.
        is_raw: whether the contents are raw.
    """

    length: int
    model: str
    version: str
    spec: ObservationSpec
    batch: int
    outputs: tuple[Output, ...]
    is_raw: bool


class Heads:
    """The heads of valid requests without an id."""

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}
        self._lengths: dict[int, int] = {}
        """Length of the latest head of messages with a certain length."""

    def find(self, message: bytes) -> Head | None:
        """The head of a message, if it is known."""
        length = self._lengths.get(len(message))
        return None if length is None else self._heads.get(message[:length])

    def keep(
        self,
        message: bytes,
        request: ModelInferRequest,
        spec: ObservationSpec,
        outputs: tuple[Output, ...],
    ) -> None:
        """Keeps the head of a valid request, if its tensor is the end of its message."""
        batch, is_raw = request.inputs[0].shape[0], bool(request.raw_input_contents)
        length = len(message) - batch * spec.item_bytes
        if request.id or not 0 < length <= MAX_BYTES or not (is_raw or spec.dtype == "float32"):
            return
        if not _ends_with_tensor(message, length, request, is_raw=is_raw):
            return
        if len(self._heads) >= MAX_HEADS:
            self._heads.clear()
            self._lengths.clear()
        self._heads[message[:length]] = Head(
            length, request.model_name, request.model_version, spec, batch, outputs, is_raw
        )
        self._lengths[len(message)] = length


def _ends_with_tensor(
    message: bytes, length: int, request: ModelInferRequest, *, is_raw: bool
) -> bool:
    """Whether other bytes at the end of a message are another tensor, and nothing else."""
    other = bytes(byte ^ 1 for byte in message[length:])  # the lowest bits: no float becomes NaN
    expected = ModelInferRequest()
    expected.CopyFrom(request)
    if is_raw:
        expected.raw_input_contents[0] = other
    else:
        numbers: Any = expected.inputs[0].contents.fp32_contents
        numbers[:] = np.frombuffer(other, "<f4").tolist()
    try:
        return bool(ModelInferRequest.FromString(message[:length] + other) == expected)
    except DecodeError:
        return False
