"""The usual form of the protocol's requests: one binary tensor after a few hundred bytes of JSON.

Clients send the same JSON again and again, unless they number their requests: what was read from it
is kept, and so is the JSON of the answer where all of its tensors are binary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slimq.core.errors import SlimqError
from slimq.core.observation import Observations
from slimq.core.qfunction import QValues
from slimq_service.answers import Answer
from slimq_service.batching import Inference
from slimq_service.express import Content, RequestHeaders
from slimq_service.forms import LONGEST_RAW, Layout
from slimq_service.model import LoadedVariant
from slimq_service.oip.answer import render
from slimq_service.oip.errors import refuse
from slimq_service.oip.framing import LENGTH_HEADER, json_length
from slimq_service.oip.request import InferRequest, Limits, Output, read_request
from slimq_service.oip.tensors import Q_VALUES
from slimq_service.problems import Problem

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
        self._variant, self._limits = variant, limits
        self._spec = variant.policy.observation
        self._layout = Layout.of(self._spec)
        self._heads: dict[bytes, _Known] = {}

    def read(self, headers: RequestHeaders, body: bytes) -> tuple[Observations, _Known] | None:
        """As `Form.read` has it."""
        lengths = [value for name, value in headers if name == LENGTH_HEADER]
        if len(lengths) != 1 or len(body) > LONGEST_RAW:
            return None
        try:
            length = json_length(headers) or 0
            known = self._heads.get(body[:length]) or self._learn(body, length)
        except SlimqError:
            return None
        if known is None:
            return None
        observations = self._layout.from_bytes(memoryview(body)[length:])
        if observations is None or len(observations) != known.batch:
            return None
        return observations if observations.flags.aligned else observations.copy(), known

    def render(self, asked: _Known, q_values: QValues, actions: list[int]) -> Content:
        """As `Form.render` has it."""
        tensors = [
            q_values.astype("<f4", copy=False).tobytes()
            if output.name == Q_VALUES
            else np.array(actions, "<i8").tobytes()
            for output in asked.outputs
        ]
        return asked.headers.copy(), b"".join((asked.head, *tensors))

    def refuse(self, problem: Problem) -> Answer:
        """As `Form.refuse` has it."""
        return refuse(problem)

    def _learn(self, body: bytes, length: int) -> _Known | None:
        """What the endpoint would read; None of what is answered otherwise each time.

        Raises:
            SlimqError: the request is wrong.
        """
        if not 0 < length <= LONGEST_HEAD:
            return None
        request = read_request(body, None, length, self._spec, self._limits)
        if request.id is not None or not all(output.binary for output in request.outputs):
            return None
        if len(self._heads) >= MOST_HEADS:
            self._heads.clear()
        known = self._heads[body[:length]] = self._prepare(request)
        return known

    def _prepare(self, request: InferRequest) -> _Known:
        batch = len(request.observations)
        actions = len(self._variant.policy.actions)
        answer = render(
            self._variant, request, Inference(np.zeros((batch, actions), np.float32), 0.0)
        )
        values = dict(answer.headers)
        head = answer.body[: int(values[LENGTH_HEADER])]
        length = (b"content-length", b"%d" % len(answer.body))
        headers = [(b"content-type", answer.media_type), length, *answer.headers]
        return _Known(batch, request.outputs, headers, head)
