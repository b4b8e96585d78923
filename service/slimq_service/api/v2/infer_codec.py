"""The usual form of the protocol's requests: one binary tensor after a few hundred bytes of JSON.

Clients send the same JSON again and again, unless they number their requests: what was read from it
is kept, and so is the JSON of the answer where all of its tensors are binary. It is kept until the
next look at the repository, with the lane.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slimq.core.errors import SlimqError
from slimq.core.qfunction import QValues
from slimq_service.api.v1.act_codec import LONGEST_RAW, from_bytes
from slimq_service.api.v2.framing import LENGTH_HEADER
from slimq_service.api.v2.request import InferRequest, Limits, Output, aligned, read_request
from slimq_service.api.v2.response import render
from slimq_service.api.v2.tensors import Q_VALUES
from slimq_service.http.bodies import number_of
from slimq_service.http.error_responses import v2_error
from slimq_service.http.problems import Problem
from slimq_service.http.responses import Answer
from slimq_service.requests.fast_path import Content, RequestHeaders, Usual
from slimq_service.variants.loading import LoadedVariant

LONGEST_HEAD = 1024
"""Bytes of JSON that is kept."""
MOST_HEADS = 16
"""Of a variant; where there are more, all are forgotten."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What a head of JSON asks for, and how that is answered."""

    batch: int
    outputs: tuple[Output, ...]
    headers: list[tuple[bytes, bytes]]
    head: bytes


class InferForm:
    """Requests for one variant."""

    def __init__(self, variant: LoadedVariant, limits: Limits) -> None:
        self._names = variant.policy.name, variant.manifest.name
        self._actions = len(variant.policy.actions)
        self._spec, self._limits = variant.policy.observation, limits
        self._heads: dict[bytes, _Known | None] = {}

    def read(self, headers: RequestHeaders, body: bytes) -> Usual | None:
        """As `Form.read` has it."""
        lengths = [value for name, value in headers if name == LENGTH_HEADER]
        length = number_of(lengths[0]) if len(lengths) == 1 else None
        if not length or length > LONGEST_HEAD or not length < len(body) <= LONGEST_RAW:
            return None
        head = body[:length]
        if head not in self._heads:
            self._learn(body, length)
        known = self._heads.get(head)
        if known is None:
            return None
        observations = from_bytes(self._spec, memoryview(body)[length:])
        if observations is None or len(observations) != known.batch:
            return None
        return aligned(observations), known

    def render(self, asked: _Known, q_values: QValues, actions: list[int]) -> Content:
        """As `Form.render` has it."""
        tensors = [
            q_values.astype("<f4", copy=False).tobytes()
            if output.name == Q_VALUES
            else np.array(actions, "<i8").tobytes()
            for output in asked.outputs
        ]
        return asked.headers.copy(), b"".join((asked.head, *tensors))

    def word(self, problem: Problem) -> Answer:
        """As `Form.word` has it."""
        return v2_error(problem)

    def _learn(self, body: bytes, length: int) -> None:
        """Keeps what the JSON of a request asks for, None where that is not all there is to it.

        Nothing is kept of a request that is wrong, perhaps by its numbers alone, nor of one with a
        number of its own.
        """
        head = body[:length]
        if b'"id"' in head:
            return
        try:
            request = read_request(body, None, length, self._spec, self._limits)
        except SlimqError:
            return
        if len(self._heads) >= MOST_HEADS:
            self._heads.clear()
        binary = all(output.binary for output in request.outputs)
        plain = binary and request.id is None
        self._heads[head] = self._prepare(request) if plain else None

    def _prepare(self, request: InferRequest) -> _Known:
        batch = len(request.observations)
        nothing: QValues = np.zeros((batch, self._actions), np.float32)
        answer = render(*self._names, request, nothing)
        head = answer.body[: int(dict(answer.headers)[LENGTH_HEADER])]
        length = (b"content-length", b"%d" % len(answer.body))
        headers = [(b"content-type", answer.media_type), length, *answer.headers]
        return _Known(batch, request.outputs, headers, head)
