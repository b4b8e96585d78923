"""A service that stands still for a second: the open loop shows it, the closed loop does not."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest

from slimq.core.calibration import CalibrationSet
from slimq.core.repository import Repository
from slimq.loadtest.connection import Pool
from slimq.loadtest.driver import BlockResult, drive_closed, drive_open
from slimq.loadtest.requests import Address, Requests, make_bodies, make_head

SECONDS, RATE = 4.0, 200.0
STALL_AFTER, STALL_SECONDS = 1.5, 1.0


@pytest.fixture
def drive(served: Any) -> Any:
    """`drive(rate)`: a block of load in which the service is stopped for a second."""
    url, process, root = served
    repository = Repository(root)
    policy = repository.policy("tiny")
    assert policy.calibration is not None
    states = CalibrationSet.from_bytes(repository.read_file("tiny", policy.calibration))
    bodies = make_bodies(states.observations(policy.observation), policy.observation, 1)
    address = Address.parse(url)
    requests = Requests(make_head(address, "tiny", "fp32", len(bodies[0]), None), bodies)

    def stall() -> None:
        time.sleep(STALL_AFTER)
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(STALL_SECONDS)
        os.kill(process.pid, signal.SIGCONT)

    async def load(rate: float | None) -> BlockResult:
        pool = Pool(address, 4)
        await pool.fill()
        try:
            await drive_closed(pool, requests, 0.5, 5)
            thread = threading.Thread(target=stall)
            thread.start()
            if rate is None:
                answers = await drive_closed(pool, requests, SECONDS, 5)
            else:
                answers = await drive_open(pool, requests, SECONDS, 5, rate)
            thread.join()
            return answers
        finally:
            await pool.close()

    return lambda rate: asyncio.run(load(rate))


@pytest.mark.slow
@pytest.mark.alone
def test_a_stall_is_in_the_quantiles_of_the_open_loop_and_not_of_the_closed(drive: Any) -> None:
    closed, opened = drive(None), drive(RATE)
    for answers in (closed, opened):
        assert not answers.failed
        assert max(answers.latencies) > 0.9 * STALL_SECONDS
    # A second of four: every fourth request that was due has met it, by half of it on average.
    assert np.quantile(opened.latencies, 0.9) > 0.4 * STALL_SECONDS
    assert np.quantile(closed.latencies, 0.99) < 0.4 * STALL_SECONDS
    late = np.asarray(opened.latencies) > 0.1 * STALL_SECONDS
    assert late.sum() > 0.8 * 0.9 * STALL_SECONDS * RATE
    assert opened.sent + opened.dropped == int(SECONDS * RATE)
    # In the closed loop the stall is as many requests as there are connections.
    assert (np.asarray(closed.latencies) > 0.9 * STALL_SECONDS).sum() == 4
