"""Measures gRPC against a bare grpc.aio server that only runs the model (Linux).

    python benchmarks/serving_grpc.py

Both get the same bytes and answer with the same bytes; `serving_grpc_peer.py` is the bare server.
They are measured in turns, each while the other is paused, so the two measurements of a ratio are
seconds apart. The statistic is processor time per request, over all threads of a server, less its
idle processor time; on a busy machine, only the ratio is meaningful.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import uvloop

from serving_grpc_peer import OBSERVATION, VARIANT
from serving_processes import Server
from serving_repositories import build_few
from serving_requests import observe
from serving_rounds import SLIMQ
from serving_table import format_table, summarize
from slimq.core.repository import Repository
from slimq_service.grpc.codec import CONTENTS
from slimq_service.grpc.open_inference_pb2 import ModelInferRequest

POLICIES = Path(__file__).parents[1] / "policies"
PEER = Path(__file__).with_name("serving_grpc_peer.py")
METHOD = "/inference.GRPCInferenceService/ModelInfer"
CASES = (("cartpole", "raw"), ("cartpole", "typed"), ("pong", "raw"))
AIM = 1.3
CONNECTIONS, CALLS = 4, 16
"""Number of connections, and of concurrent calls on each: enough that no server is ever idle."""
HEAD = ["policy", "contents", "service, µs", "bare, µs", "ratio", "low", "high", "aim"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Side:
    """A server, and the address and method to call."""

    server: Server
    address: str
    method: str


def encode(policy: str, observation: Array, contents: str) -> bytes:
    """Encodes a request for actions."""
    dtype = str(observation.dtype)
    tensor = ModelInferRequest.InferInputTensor(
        name="observations",
        datatype="UINT8" if dtype == "uint8" else "FP32",
        shape=observation.shape,
    )
    request = ModelInferRequest(model_name=policy, model_version=VARIANT, inputs=[tensor])
    if contents == "raw":
        request.raw_input_contents.append(observation.tobytes())
    else:
        getattr(request.inputs[0].contents, CONTENTS[dtype]).extend(observation.ravel().tolist())
    message: bytes = request.SerializeToString()
    return message


async def call(address: str, method: str, message: bytes) -> bytes:
    """Makes one call; returns the response."""
    async with grpc.aio.insecure_channel(address) as channel:
        response: bytes = await channel.unary_unary(method)(message, wait_for_ready=True)
        return response


async def load(address: str, method: str, message: bytes, seconds: float) -> int:
    """Makes calls until the time is over; returns their number."""
    end = time.perf_counter() + seconds

    async def repeat(method_of: Any) -> int:
        count = 0
        while time.perf_counter() < end:
            await method_of(message)
            count += 1
        return count

    async with contextlib.AsyncExitStack() as stack:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(address, options) for _ in range(CONNECTIONS)]
        calls = []
        for channel in channels:
            await stack.enter_async_context(channel)
            calls += [repeat(channel.unary_unary(method)) for _ in range(CALLS)]
        return sum(await asyncio.gather(*calls))


def measure(side: Side, message: bytes, seconds: float) -> float:
    """Microseconds of processor time per request."""
    server = side.server
    server.check()
    server.resume()
    uvloop.run(load(side.address, side.method, message, seconds / 4))
    start, before = time.perf_counter(), server.processor_seconds()
    time.sleep(seconds)
    middle, between = time.perf_counter(), server.processor_seconds()
    count = uvloop.run(load(side.address, side.method, message, seconds))
    end, after = time.perf_counter(), server.processor_seconds()
    server.pause()
    idle = (between - before) / (middle - start)
    return 1e6 * (after - between - idle * (end - middle)) / count


def free_port() -> int:
    """A free port."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def compare(policies: Path, policy: str, contents: str, rounds: int, seconds: float) -> list[str]:
    """Measures one case; returns a row of the table."""
    observation, _ = observe(Repository(policies), policy)
    message, cores = encode(policy, observation, contents), os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder, port = Path(name), free_port()
        build_few(Repository(policies), folder / "policies")
        options = "--policies", str(folder / "policies"), "--port", "0", "--grpc-port", str(port)
        service = Server("service", [*SLIMQ, "serve", *options], cores, folder / "service.log")
        stack.callback(service.stop)
        response = uvloop.run(call(f"127.0.0.1:{port}", METHOD, message))
        (folder / "same.bin").write_bytes(response)
        np.save(folder / OBSERVATION, observation)
        options = "--policies", str(policies), "--policy", policy, "--responses", str(folder)
        bare = Server("bare", [sys.executable, str(PEER), *options], cores, folder / "bare.log")
        stack.callback(bare.stop)
        sides = (
            Side(service, f"127.0.0.1:{port}", METHOD),
            Side(bare, bare.url.removeprefix("http://"), "/echo/same"),
        )
        for side in sides:
            side.server.pause()
        measured: tuple[list[float], list[float]] = ([], [])
        for turn in range(rounds):
            for which in (0, 1) if turn % 2 else (1, 0):
                measured[which].append(measure(sides[which], message, seconds))
    ratio = summarize([ours / theirs for ours, theirs in zip(*measured, strict=True)])
    medians = [f"{statistics.median(values):.0f}" for values in measured]
    ratios = [f"{value:.2f}" for value in (ratio.median, ratio.low, ratio.high)]
    return [policy, contents, *medians, *ratios, f"≤ {AIM}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", type=Path, default=POLICIES)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a measurement")
    given = parser.parse_args(arguments)
    rows = [compare(given.policies, *case, given.rounds, given.seconds) for case in CASES]
    print(format_table(HEAD, rows))


if __name__ == "__main__":
    main()
