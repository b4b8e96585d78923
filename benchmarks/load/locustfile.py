"""The equivalent of `slimq loadtest` for locust: variants one after another, in a closed loop.

    python benchmarks/load/observations.py pong pong.bin
    OBSERVATIONS=pong.bin locust -f benchmarks/load/locustfile.py --headless --only-summary

POLICY, VARIANTS, SECONDS (for each variant), CONNECTIONS and SLIMQ_API_KEY are read from the
environment; locust's own --host sets the service. A closed loop hides stalls, since a waiting user
sends nothing.
"""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path
from typing import Any

from locust import FastHttpUser, LoadTestShape, constant, task
from locust.exception import StopTest

POLICY = os.environ.get("POLICY", "pong")
VARIANTS = os.environ.get("VARIANTS", "fp32,int8,tiny").split(",")
SECONDS = float(os.environ.get("SECONDS", "10"))
CONNECTIONS = int(os.environ.get("CONNECTIONS", "4"))
OBSERVATIONS = Path(os.environ.get("OBSERVATIONS", "observations.bin"))
KEY = os.environ.get("SLIMQ_API_KEY")
HEADERS = {"content-type": "application/octet-stream"}
AUTHORIZATION = {"authorization": f"Bearer {KEY}"} if KEY else {}


class Player(FastHttpUser):
    """One connection, which sends the next observation once the last is answered."""

    host = "http://127.0.0.1:8000"
    wait_time = constant(0)

    def on_start(self) -> None:
        """Splits the file into observations of the size in the policy's manifest."""
        path = f"/v1/policies/{POLICY}"
        with self.client.get(path, headers=AUTHORIZATION, name="manifest") as answer:
            if answer.status_code != 200:
                raise StopTest(f"{POLICY}: {answer.status_code} {answer.text}")
            spec = answer.json()["observation"]
        size = math.prod(spec["shape"]) * (1 if spec["dtype"] == "uint8" else 4)
        content = OBSERVATIONS.read_bytes()
        if not content or len(content) % size:
            raise StopTest(f"OBSERVATIONS: expected a multiple of {size} bytes for {POLICY}")
        bodies = [content[start : start + size] for start in range(0, len(content), size)]
        self.bodies = itertools.cycle(bodies)

    @task
    def act(self) -> None:
        """Sends one request to the current variant."""
        shape = self.environment.shape_class
        variant = VARIANTS[min(int(shape.get_run_time() // SECONDS), len(VARIANTS) - 1)]
        path = f"/v1/policies/{POLICY}/variants/{variant}/act"
        headers = {**HEADERS, **AUTHORIZATION}
        self.client.post(path, data=next(self.bodies), headers=headers, name=variant)


class OneAfterAnother(LoadTestShape):
    """Load shape: each variant for `SECONDS`, then the end."""

    def tick(self) -> Any:
        """The number of users and the number started per second; None at the end."""
        ended = self.get_run_time() >= SECONDS * len(VARIANTS)
        return None if ended else (CONNECTIONS, CONNECTIONS)
