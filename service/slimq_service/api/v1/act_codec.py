"""The usual forms of the act endpoint's requests: vectors and frames as JSON, and raw bytes."""

from __future__ import annotations

import numpy as np
import orjson

from slimq.core.errors import ObservationError
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.qfunction import QValues
from slimq_service.api.v1.act import MIDDLE, render_start
from slimq_service.decoding.frames_in_json import PLACE, read_frames
from slimq_service.decoding.observations import FIELD, JSON, RAW
from slimq_service.http.problems import Problem
from slimq_service.http.responses import Answer, problem_answer
from slimq_service.requests.fast_path import Content, RequestHeaders, Usual
from slimq_service.variants.loading import LoadedVariant

LONGEST_VECTORS, LONGEST_RAW, LONGEST_FRAMES = 8 * 1024, 256 * 1024, 256 * 1024
"""Bytes of a body that is read here, vectors and frames as JSON; a longer one would make others
wait. So few vectors cannot be made of more lists than any body may have."""
LARGEST_FLOAT32 = float(np.finfo(np.float32).max)

_JSON, _RAW = JSON.encode(), RAW.encode()
_ALONE = {b'{"%b":%b%d}' % (FIELD.encode(), blank, PLACE) for blank in (b"", b" ")}
"""What is left of documents of frames that have nothing else."""
_NUMBERS = frozenset((int, float))


def is_of_vectors(spec: ObservationSpec) -> bool:
    """Whether observations are vectors of floats, which are read from JSON number by number."""
    return len(spec.shape) == 1 and spec.dtype == "float32"


class ActForm:
    """Requests for one variant."""

    def __init__(self, variant: LoadedVariant) -> None:
        self._spec = variant.policy.observation
        self._of_vectors = is_of_vectors(self._spec)
        self._start = render_start(variant)

    def read(self, headers: RequestHeaders, body: bytes) -> Usual | None:
        """As `Form.read` has it."""
        types = [value for name, value in headers if name == b"content-type"]
        observations: Observations | None = None
        if types == [_RAW] and len(body) <= LONGEST_RAW:
            observations = from_bytes(self._spec, body)
        elif types == [_JSON] and self._of_vectors and len(body) <= LONGEST_VECTORS:
            rows = _rows(body, self._spec.size)
            observations = None if rows is None else np.array(rows, np.float32)
        elif types == [_JSON] and len(body) <= LONGEST_FRAMES:
            frames = read_frames(body, self._spec)
            observations = frames[0] if frames is not None and frames[1] in _ALONE else None
        return None if observations is None else (observations, None)

    def render(self, asked: None, q_values: QValues, actions: list[int]) -> Content:  # noqa: ARG002
        """As `Form.render` has it."""
        numbers = orjson.dumps(np.ascontiguousarray(q_values), option=orjson.OPT_SERIALIZE_NUMPY)
        body = b"".join((self._start, orjson.dumps(actions), MIDDLE, numbers, b"}"))
        return [(b"content-type", _JSON), (b"content-length", b"%d" % len(body))], body

    def word(self, problem: Problem) -> Answer:
        """As `Form.word` has it."""
        return problem_answer(problem)


def from_bytes(spec: ObservationSpec, body: bytes | memoryview) -> Observations | None:
    """Observations `(batch, *shape)` from raw bytes, None where they are not right."""
    try:
        return spec.from_bytes(body)
    except ObservationError:
        return None


def _rows(body: bytes, length: int) -> list[list[float]] | None:
    """The vectors of a body that has nothing else, None where they are not all finite float32s."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if type(document) is not dict or len(document) != 1:
        return None
    rows = document.get(FIELD)
    if type(rows) is not list or not rows:
        return None
    for row in rows:
        if type(row) is not list or len(row) != length or not _NUMBERS.issuperset(map(type, row)):
            return None
        if max(row) > LARGEST_FLOAT32 or min(row) < -LARGEST_FLOAT32:
            return None
    return rows
