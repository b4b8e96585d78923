from __future__ import annotations

import pytest

from samples import sample_value
from slimq_service.errors import OverloadedError
from slimq_service.inference.queue_budget import Room
from slimq_service.metrics.registry import Registry
from slimq_service.metrics.service import Metrics


def make(requests: int, size: int) -> tuple[Room, Metrics]:
    metrics = Metrics(Registry())
    return Room(requests, size, metrics.queue_depth, metrics.queue_bytes), metrics


def test_room_is_bounded_in_requests() -> None:
    room, metrics = make(2, 100)
    room.enter(1, lambda: 3)
    room.enter(1, lambda: 3)
    assert sample_value(metrics.registry, "slimq_queue_depth") == 2
    with pytest.raises(OverloadedError, match=r"^2 requests .* in 3 s"):
        room.enter(1, lambda: 3)
    room.leave(1)
    room.enter(1, lambda: 3)


def test_room_is_bounded_in_bytes() -> None:
    room, metrics = make(9, 100)
    room.enter(60, lambda: 3)
    with pytest.raises(OverloadedError, match=r"^at most 100 bytes .* in 3 s"):
        room.enter(41, lambda: 3)
    room.enter(40, lambda: 3)
    room.leave(60)
    assert (room.requests, room.bytes) == (1, 40)
    assert sample_value(metrics.registry, "slimq_queue_depth") == 1
    assert sample_value(metrics.registry, "slimq_queue_bytes") == 40
