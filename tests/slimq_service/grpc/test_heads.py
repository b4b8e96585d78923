"""Heads of requests; that what is answered by them is right is tested with the server."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from slimq.core.observation import ObservationSpec
from slimq_service.api.v2.request import Output
from slimq_service.grpc.heads import MAX_BYTES, MAX_HEADS, Heads
from slimq_service.grpc.responses import delimited

OUTPUTS = (Output("actions", binary=False),)
ONES = np.ones((2, 4), np.float32)


@pytest.fixture
def spec() -> ObservationSpec:
    return ObservationSpec(dtype="float32", shape=(4,))


def keep(heads: Heads, request: Any, spec: ObservationSpec, message: bytes | None = None) -> bytes:
    sent: bytes = request.SerializeToString() if message is None else message
    heads.keep(sent, request, spec, OUTPUTS)
    return sent


@pytest.mark.parametrize("raw", [True, False])
def test_a_request_with_other_numbers_has_the_same_head(
    make_request: Any, spec: ObservationSpec, raw: bool
) -> None:
    heads = Heads()
    sent = keep(heads, make_request("tiny", ONES, raw=raw, model_version="a"), spec)
    other = make_request("tiny", 2 * ONES, raw=raw, model_version="a").SerializeToString()
    head = heads.find(other)
    assert head is not None
    assert head is heads.find(sent)
    assert (head.model, head.version, head.batch, head.is_raw) == ("tiny", "a", 2, raw)
    assert (head.spec, head.outputs) == (spec, OUTPUTS)
    np.testing.assert_array_equal(np.frombuffer(other[head.length :], "<f4"), 2 * ONES.ravel())


def test_other_names_and_sizes_have_other_heads(make_request: Any, spec: ObservationSpec) -> None:
    heads = Heads()
    keep(heads, make_request("tiny", ONES), spec)
    assert heads.find(make_request("tinx", ONES).SerializeToString()) is None
    assert heads.find(make_request("tiny", ONES[:1]).SerializeToString()) is None


def test_numbered_requests_are_not_kept(make_request: Any, spec: ObservationSpec) -> None:
    heads = Heads()
    assert heads.find(keep(heads, make_request("tiny", ONES, id="1"), spec)) is None


def test_a_long_head_is_not_kept(make_request: Any, spec: ObservationSpec) -> None:
    heads = Heads()
    assert heads.find(keep(heads, make_request("n" * MAX_BYTES, ONES), spec)) is None


def test_numbers_that_only_repeat_at_the_end_are_not_mistaken_for_the_tensor(
    make_request: Any, spec: ObservationSpec
) -> None:
    heads, request = Heads(), make_request("tiny", ONES)
    unknown = delimited(15, b"\x3a\x20" + ONES.tobytes())
    message = request.SerializeToString() + unknown
    assert message.endswith(request.raw_input_contents[0])
    assert heads.find(keep(heads, type(request).FromString(message), spec, message)) is None


def test_typed_bytes_are_not_kept(make_request: Any) -> None:
    frames = np.ones((1, 4), np.uint8)
    heads, spec = Heads(), ObservationSpec(dtype="uint8", shape=(4,))
    assert heads.find(keep(heads, make_request("tiny", frames, raw=False), spec)) is None
    assert heads.find(keep(heads, make_request("tiny", frames), spec)) is not None


def test_heads_are_few(make_request: Any, spec: ObservationSpec) -> None:
    heads = Heads()
    first = keep(heads, make_request("p0", ONES), spec)
    for number in range(1, MAX_HEADS + 1):
        last = keep(heads, make_request(f"p{number}", ONES), spec)
    assert heads.find(first) is None
    assert heads.find(last) is not None
