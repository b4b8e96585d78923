"""Both loops, against servers that behave well or badly."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest

from load_peer import ANSWER, BODIES, Peer, drive, well

TRIES = 6
"""Of rates, which a machine that is busy with other things may not hold."""


def test_a_closed_loop_sends_the_bodies_in_turn_and_counts_the_answers() -> None:
    answers, peer = drive(well, first=3, connections=1)
    assert answers.sent == answers.answered == len(peer.bodies) > 20
    assert peer.bodies == [BODIES[(3 + index) % 5] for index in range(answers.sent)]
    assert answers.seconds == pytest.approx(0.18)
    assert answers.completed <= answers.answered
    assert len(answers.latencies) <= answers.completed + 1
    assert not answers.failed
    assert 0 < answers.generator <= 1.5


def test_an_open_loop_sends_what_is_due_and_no_more() -> None:
    answers, peer = drive(well, rate=200)
    assert answers.sent == answers.answered == len(peer.bodies) == 40
    assert answers.dropped == 0
    assert len(answers.latencies) == 36
    assert len(answers.lateness) == 40


def test_latency_counts_from_when_a_request_was_due() -> None:
    async def slow(peer: Peer, writer: Any) -> None:
        await asyncio.sleep(0.05)
        writer.write(ANSWER)

    begin = time.perf_counter()
    closed, _ = drive(slow, connections=1)
    elapsed = time.perf_counter() - begin
    opened, _ = drive(slow, connections=1, rate=40, seconds=0.4)  # twice what the server can do
    assert min(closed.latencies) > 0.04
    assert sum(closed.latencies) < elapsed  # on one connection they follow each other
    assert min(np.diff(opened.latencies)) > 0
    assert max(opened.latencies) > 0.3


def test_what_waits_too_long_is_dropped_and_counted() -> None:
    async def slow(peer: Peer, writer: Any) -> None:
        await asyncio.sleep(0.1)
        writer.write(ANSWER)

    answers, peer = drive(slow, connections=1, rate=100, timeout=0.3, seconds=0.4)
    assert answers.sent + answers.dropped == 40
    assert answers.dropped > 30
    assert answers.answered == answers.sent == len(peer.bodies)


def test_an_open_loop_that_is_behind_ends_after_twice_its_time() -> None:
    async def slow(peer: Peer, writer: Any) -> None:
        await asyncio.sleep(0.15)
        writer.write(ANSWER)

    answers, _ = drive(slow, connections=1, rate=100, seconds=0.4)
    assert answers.answered <= 8
    assert answers.sent + answers.dropped == 40


def test_other_statuses_are_failures_by_their_number() -> None:
    async def refuse(peer: Peer, writer: Any) -> None:
        status = b"503 Busy" if len(peer.bodies) % 2 else b"200 OK"
        writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n")

    answers, _ = drive(refuse)
    assert answers.failed["503"] in (answers.sent // 2, answers.sent - answers.sent // 2)
    assert answers.answered == answers.sent - answers.failed["503"]
    assert len(answers.latencies) <= answers.answered


def test_a_request_without_an_answer_fails_when_its_time_is_up() -> None:
    async def once(peer: Peer, writer: Any) -> None:
        if len(peer.bodies) != 3:
            writer.write(ANSWER)

    answers, _ = drive(once, timeout=0.2)
    assert dict(answers.failed) == {"timeout": 1}
    assert answers.answered == answers.sent - 1


def test_the_pace_is_that_of_the_answers_whatever_each_takes() -> None:
    async def late(peer: Peer, writer: Any) -> None:
        await asyncio.sleep(0.1)
        writer.write(ANSWER)

    for connections, pace in ((50, 50), (1, 10)):
        for _ in range(TRIES):
            answers, _ = drive(late, rate=50, connections=connections, seconds=0.6)
            if answers.pace == pytest.approx(pace, rel=0.15):
                break
        assert answers.pace == pytest.approx(pace, rel=0.15)
    alone, _ = drive(late, rate=1, seconds=0.2)
    assert (alone.answered, alone.pace) == (1, None)
