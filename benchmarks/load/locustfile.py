"""The job of `slimq loadtest` for people who have locust: variants one after another, closed loop.

    python benchmarks/load/observations.py pong pong.bin
    OBSERVATIONS=pong.bin locust -f benchmarks/load/locustfile.py --headless --only-summary

POLICY, VARIANTS, SECONDS (for each variant), CONNECTIONS and SLIMQ_API_KEY are read from the
environment; locust's own --host gives the service. A closed loop does not show stalls: a user
that waits sends nothing.
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
    """One connection that sends its next observation when the last is answered."""

    host = "http://127.0.0.1:8000"
    wait_time = constant(0)

    def on_start(self) -> None:
        """Cuts the file into observations, as long as the policy's manifest says."""
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
        """One request to the variant whose turn it is."""
        shape = self.environment.shape_class
        variant = VARIANTS[min(int(shape.get_run_time() // SECONDS), len(VARIANTS) - 1)]
        path = f"/v1/policies/{POLICY}/variants/{variant}/act"
        headers = {**HEADERS, **AUTHORIZATION}
        self.client.post(path, data=next(self.bodies), headers=headers, name=variant)


class OneAfterAnother(LoadTestShape):
    """Each variant for its seconds, then the end."""

    def tick(self) -> Any:
        """How many users there are to be and how many start in a second; None at the end."""
        ended = self.get_run_time() >= SECONDS * len(VARIANTS)
        return None if ended else (CONNECTIONS, CONNECTIONS)
