from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import metrics_cost
from serving_cases import MLP_JSON
from serving_requests import Prepared
from serving_unmeasured import Forgetful
from slimq_service.metrics.service import Metrics


def test_a_registry_that_forgets_has_every_series_and_no_count() -> None:
    metrics = Metrics(Forgetful())
    metrics.add("pong", "int8", ["noop"])
    measured = metrics.of("pong", "int8")
    measured.requests.inc()
    measured.loaded.set(1)
    measured.parse_seconds.observe(1e-6)
    measured.count_actions([0])
    text = metrics.registry.render()
    assert 'slimq_requests_total{policy="pong",variant="int8"} 0.0' in text
    values = {line.rpartition(" ")[2] for line in text.splitlines() if line[0] != "#"}
    assert values == {"0.0"}


def test_an_answer_that_is_an_error_is_no_measurement() -> None:
    once = metrics_cost.sender(MLP_JSON, Prepared({}, b"", np.zeros((1, 2))))

    class App:
        @staticmethod
        async def asgi(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 503})

    with pytest.raises(RuntimeError, match="is answered with 503"):
        asyncio.run(once(App()))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.alone
def test_it_prints_a_ratio_for_every_request() -> None:
    command = [sys.executable, str(Path(metrics_cost.__file__)), "--turns", "2", "--requests", "20"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    rows = [line.split() for line in ended.stdout.splitlines()[-3:]]
    assert [row[1:6:2] for row in rows] == [
        ["cartpole", "fp32", "json"],
        ["pong", "fp32", "raw"],
        ["pong", "tiny", "raw"],
    ]
    assert all(float(row[11]) > 0.3 for row in rows)
