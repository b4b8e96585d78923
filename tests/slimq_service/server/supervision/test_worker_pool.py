from __future__ import annotations

import time

from slimq_service.server.supervision.worker_pool import MAX_BACKOFF_SECONDS, Slot


def test_who_dies_young_again_and_again_is_replaced_later_and_later() -> None:
    slot, pauses = Slot(0), []
    for _ in range(9):
        now = time.monotonic()
        slot.schedule_restart(age=1)
        pauses.append(round(slot.next_start - now, 1))
    assert pauses[:4] == [0.0, 1.0, 2.0, 4.0]
    assert pauses[-1] == MAX_BACKOFF_SECONDS
    slot.schedule_restart(age=60)
    assert slot.next_start <= time.monotonic()
