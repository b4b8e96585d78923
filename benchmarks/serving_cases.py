"""The cases of `serving.py`, each with its base of comparison and its aim.

A case is a ratio of two sides that get the same load in the same round: the measured one over its
base.
"""

# ruff: noqa: E501 (one case a line)

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Statistic(StrEnum):
    """The statistic of a measurement that is compared."""

    PROCESSOR = "processor time per request"
    TIME = "time per request"
    P50 = "p50"
    P99 = "p99"
    RATE = "requests per second"
    SHARE = "share of the limit"


@dataclass(frozen=True)
class Request:
    """One observation for a policy.

    Attributes:
        policy: the policy's name.
        form: `json` (nested lists), `raw` (bytes), `v2` (the protocol's binary tensors) or `v2json`
            (the protocol with a flat list in JSON).
        variant: the variant's name.
    """

    policy: str
    form: str
    variant: str = "fp32"


@dataclass(frozen=True)
class Side:
    """The server and request of a load, and what happens every second meanwhile.

    Attributes:
        server: one of `SERVERS`.
        request: the request.
        meanwhile: `scrape` or `republish`; None for nothing.
    """

    server: str
    request: Request
    meanwhile: str | None = None


@dataclass(frozen=True)
class Aim:
    """The aim for a ratio.

    Attributes:
        limit: the largest ratio that meets the aim; the smallest if `at_least` is set.
        target: a more ambitious ratio; None for none.
        at_least: whether larger is better.
        by_interval: whether the aim is met once the interval reaches the limit.
    """

    limit: float
    target: float | None = None
    at_least: bool = False
    by_interval: bool = False


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        name: name for `--cases`.
        connections: number of connections, each of which sends one request after another.
        measured: the numerator.
        base: the denominator.
        statistic: the statistic to compare.
        aim: the aim for the ratio.
        spread: whether servers may use every core; otherwise each has one.
    """

    name: str
    connections: int
    measured: Side
    base: Side
    statistic: Statistic
    aim: Aim
    spread: bool = False


CEILING, PLAIN, ECHO = "ceiling", "plain", "echo"
SERVICE, FEW, MANY, CHANGING, WORKERS = "service", "few", "many", "changing", "workers"
UNMEASURED = "unmeasured"
SERVERS = {
    CEILING: "bare ASGI application, inference inline",
    PLAIN: "FastAPI with pydantic and a sync handler",
    ECHO: "bare ASGI application without inference",
    SERVICE: "slimq serve, the shipped policies",
    UNMEASURED: "the same without metrics",
    FEW: "slimq serve, 2 variants, both loaded",
    MANY: "slimq serve, 60 variants, all loaded",
    CHANGING: "slimq serve, a variant of each policy that is republished",
    WORKERS: "slimq serve, the shipped policies, a worker for each core",
}
SCRAPE, REPUBLISH = "scrape", "republish"

MLP_JSON = Request("cartpole", "json")
MLP_V2_JSON = Request("cartpole", "v2json")
FRAMES_RAW = Request("pong", "raw")
FRAMES_JSON = Request("pong", "json")
FRAMES_V2 = Request("pong", "v2")
CHANGING_MLP = Request("cartpole", "json", "changing")
CHANGING_FRAMES = Request("pong", "raw", "changing")

PROCESSOR, TIME, P50, P99, RATE, SHARE = (
    Statistic.PROCESSOR,
    Statistic.TIME,
    Statistic.P50,
    Statistic.P99,
    Statistic.RATE,
    Statistic.SHARE,
)
SAME = Aim(1.05, by_interval=True)

# fmt: off
CASES = (
    Case("mlp-json-16", 16, Side(SERVICE, MLP_JSON), Side(CEILING, MLP_JSON), PROCESSOR, Aim(1.3, target=1.15)),
    Case("mlp-json-1", 1, Side(SERVICE, MLP_JSON), Side(CEILING, MLP_JSON), P50, Aim(1.25)),
    Case("frames-raw-1", 1, Side(SERVICE, FRAMES_RAW), Side(CEILING, FRAMES_RAW), P50, Aim(1.1)),
    Case("frames-raw-16", 16, Side(SERVICE, FRAMES_RAW), Side(CEILING, FRAMES_RAW), RATE, Aim(1.5, target=2, at_least=True), spread=True),
    Case("frames-raw-64", 64, Side(SERVICE, FRAMES_RAW), Side(CEILING, FRAMES_RAW), RATE, Aim(1.5, target=2, at_least=True), spread=True),
    Case("limit-frames-raw-16", 16, Side(WORKERS, FRAMES_RAW), Side(ECHO, FRAMES_RAW), SHARE, Aim(0.7, at_least=True), spread=True),
    Case("limit-frames-raw-64", 64, Side(WORKERS, FRAMES_RAW), Side(ECHO, FRAMES_RAW), SHARE, Aim(0.7, at_least=True), spread=True),
    Case("limit-frames-v2-16", 16, Side(WORKERS, FRAMES_V2), Side(ECHO, FRAMES_V2), SHARE, Aim(0.7, at_least=True), spread=True),
    Case("frames-json-16", 16, Side(SERVICE, FRAMES_JSON), Side(PLAIN, FRAMES_JSON), RATE, Aim(4, at_least=True), spread=True),
    Case("frames-v2-1", 1, Side(SERVICE, FRAMES_V2), Side(SERVICE, FRAMES_RAW), P50, Aim(1.15)),
    Case("frames-v2-16", 16, Side(SERVICE, FRAMES_V2), Side(SERVICE, FRAMES_RAW), PROCESSOR, Aim(1.15)),
    Case("mlp-v2-json-16", 16, Side(SERVICE, MLP_V2_JSON), Side(SERVICE, MLP_JSON), PROCESSOR, Aim(1.2)),
    Case("many-mlp-json-16", 16, Side(MANY, MLP_JSON), Side(FEW, MLP_JSON), PROCESSOR, SAME),
    Case("many-mlp-json-1", 1, Side(MANY, MLP_JSON), Side(FEW, MLP_JSON), P50, SAME),
    Case("many-frames-raw-1", 1, Side(MANY, FRAMES_RAW), Side(FEW, FRAMES_RAW), P50, SAME),
    Case("many-frames-raw-16", 16, Side(MANY, FRAMES_RAW), Side(FEW, FRAMES_RAW), TIME, SAME, spread=True),
    Case("many-frames-raw-64", 64, Side(MANY, FRAMES_RAW), Side(FEW, FRAMES_RAW), TIME, SAME, spread=True),
    Case("many-frames-json-16", 16, Side(MANY, FRAMES_JSON), Side(FEW, FRAMES_JSON), TIME, SAME, spread=True),
    Case("many-frames-v2-1", 1, Side(MANY, FRAMES_V2), Side(FEW, FRAMES_V2), P50, SAME),
    Case("scrape-mlp-json-16", 16, Side(MANY, MLP_JSON, SCRAPE), Side(MANY, MLP_JSON), P99, Aim(1.1)),
    Case("scrape-frames-raw-16", 16, Side(MANY, FRAMES_RAW, SCRAPE), Side(MANY, FRAMES_RAW), P99, Aim(1.1)),
    Case("republish-mlp-json-16", 16, Side(CHANGING, CHANGING_MLP, REPUBLISH), Side(CHANGING, CHANGING_MLP), P99, Aim(1.3)),
    Case("republish-frames-raw-16", 16, Side(CHANGING, CHANGING_FRAMES, REPUBLISH), Side(CHANGING, CHANGING_FRAMES), P99, Aim(1.3)),
    Case("workers-mlp-json-16", 16, Side(WORKERS, MLP_JSON), Side(SERVICE, MLP_JSON), PROCESSOR, Aim(1.05), spread=True),
    Case("metrics-mlp-json-16", 16, Side(SERVICE, MLP_JSON), Side(UNMEASURED, MLP_JSON), PROCESSOR, Aim(1.1)),
    Case("metrics-frames-raw-16", 16, Side(SERVICE, FRAMES_RAW), Side(UNMEASURED, FRAMES_RAW), PROCESSOR, Aim(1.05)),
)
# fmt: on
