from __future__ import annotations

import pytest

from slimq_service.api.stream.ending import ENDINGS, ending_of
from slimq_service.metrics.codes import STREAM_ENDS


def test_the_metrics_know_every_ending() -> None:
    assert tuple(ending.label for ending in ENDINGS) == STREAM_ENDS


def test_codes_are_different_and_allowed_and_reasons_fit_a_close_frame() -> None:
    closing = [ending for ending in ENDINGS if ending.code is not None]
    codes = [ending.code for ending in closing]
    assert len(set(codes)) == len(codes)
    for ending in closing:
        assert ending.code in (1001, 1011) or 4000 <= ending.code < 5000
        assert 0 < len(ending.reason.encode()) <= 123


@pytest.mark.parametrize(
    ("code", "label"),
    [
        (1000, "client"),
        (1001, "client"),
        (4000, "client"),
        (1002, "protocol"),
        (1005, "lost"),
        (1006, "lost"),
        (1007, "protocol"),
        (1009, "too-large"),
        (1012, "restart"),
    ],
)
def test_the_close_code_tells_who_closed(code: int, label: str) -> None:
    ending = ending_of({"type": "websocket.disconnect", "code": code})
    assert (ending.label, ending.code) == (label, None), "it is closed already"


def test_without_a_code_it_was_lost() -> None:
    assert ending_of({"type": "websocket.disconnect"}).label == "lost"
    assert ending_of({"type": "websocket.disconnect", "code": None}).label == "lost"
