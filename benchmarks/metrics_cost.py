"""Measures the cost of metrics per request, in one process and without a network.

    python benchmarks/metrics_cost.py

The service's application answers the same requests, in turns with its metrics and with series that
record nothing, and the processor times of the turns are compared. So other load on the machine
hardly matters, and differences of a microsecond are visible. `serving.py` compares whole servers in
the same way (`--cases metrics-mlp-json-16`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import statistics
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from serving_cases import FRAMES_RAW, MLP_JSON, Request
from serving_requests import Prepared, observe, path_of, prepare
from serving_table import format_table, summarize
from serving_unmeasured import Forgetful
from slimq.core.repository import Repository
from slimq_service.app import Application, create_app
from slimq_service.metrics.registry import Registry
from slimq_service.settings import Settings

POLICIES = Path(__file__).parents[1] / "policies"
REQUESTS = (MLP_JSON, FRAMES_RAW, Request("pong", "raw", "tiny"))
WARM = 300
"""Number of warm-up requests."""
HEAD = ["policy", "variant", "form", "with, µs", "without, µs", "ratio", "low", "high", "cost, µs"]

Once = Callable[[Application], Awaitable[None]]


@dataclass(frozen=True)
class Turns:
    """Microseconds of processor time per request in each turn, with and without metrics."""

    measured: list[float]
    unmeasured: list[float]


def sender(request: Request, prepared: Prepared) -> Once:
    """Makes a function that sends a request to an application.

    Raises:
        RuntimeError: raised by the function if the application answers with an error.
    """
    path = path_of("service", request)
    sent_headers = {**prepared.headers, "content-length": str(len(prepared.body))}
    headers = [(name.lower().encode(), value.encode()) for name, value in sent_headers.items()]
    message = {"type": "http.request", "body": prepared.body, "more_body": False}

    async def receive() -> dict[str, Any]:
        return message

    async def send(answer: MutableMapping[str, Any]) -> None:
        if answer.get("status", 200) != 200:
            raise RuntimeError(f"{path} is answered with {answer['status']}")

    async def once(app: Application) -> None:
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b""}
        await app.asgi({**scope, "headers": headers, "server": ("test", 80)}, receive, send)

    return once


async def measure(
    apps: tuple[Application, Application], once: Once, turns: int, count: int
) -> Turns:
    """Sends requests to both applications in turns; the first one alternates."""
    for app in apps:
        for _ in range(WARM):
            await once(app)
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns):
        for which in (0, 1) if turn % 2 else (1, 0):
            before = time.process_time()
            for _ in range(count):
                await once(apps[which])
            taken[which].append(1e6 * (time.process_time() - before) / count)
    return Turns(*taken)


def row(request: Request, turns: Turns) -> list[str]:
    """A row of the table."""
    pairs = list(zip(turns.measured, turns.unmeasured, strict=True))
    ratio = summarize([ours / theirs for ours, theirs in pairs])
    cost = statistics.median(ours - theirs for ours, theirs in pairs)
    medians = [f"{statistics.median(kind):.1f}" for kind in (turns.measured, turns.unmeasured)]
    ratios = [f"{value:.3f}" for value in (ratio.median, ratio.low, ratio.high)]
    return [request.policy, request.variant, request.form, *medians, *ratios, f"{cost:.1f}"]


async def run(policies: Path, turns: int, count: int) -> list[list[str]]:
    """All rows of the table."""
    repository, settings = Repository(policies), Settings(policies=policies)
    rows = []
    async with contextlib.AsyncExitStack() as stack:
        apps = create_app(settings, Registry()), create_app(settings, Forgetful())
        for app in apps:
            await stack.enter_async_context(app.routes.router.lifespan_context(app.routes))
        for request in REQUESTS:
            observation, _ = observe(repository, request.policy)
            once = sender(request, prepare(repository, request, observation))
            rows.append(row(request, await measure(apps, once, turns, count)))
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", type=Path, default=POLICIES)
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--requests", type=int, default=200, help="in a turn")
    options = parser.parse_args()
    quiet = structlog.make_filtering_bound_logger(logging.WARNING)
    structlog.configure(wrapper_class=quiet)
    rows = asyncio.run(run(options.policies, options.turns, options.requests))
    print(format_table(HEAD, rows))


if __name__ == "__main__":
    main()
