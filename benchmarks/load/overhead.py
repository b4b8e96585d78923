"""Measures the load generator's own cost, against a server that only answers, beside wrk and k6.

    python benchmarks/load/overhead.py --k6 .venv-clients/bin/k6

A generator's processor time per request limits what it can resolve; the server sends the same bytes
to each. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from slimq.loadtest.connection import Pool
from slimq.loadtest.driver import drive_closed, drive_open
from slimq.loadtest.requests import Address, Requests

BODY_BYTES = 28_224
"""Size of one observation of Pong."""
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 150\r\n\r\n" + b"x" * 150
RATE = 1000.0
WRK = 'wrk.method = "POST"\nwrk.body = string.rep("x", {size})\n'
K6 = """import http from 'k6/http';
const body = 'x'.repeat({size});
export const options = {{
  vus: {connections}, duration: '{seconds}s', discardResponseBodies: true,
}};
export default () => http.post('{url}', body);
export const handleSummary = (data) => ({{
  stdout: JSON.stringify({{ requests: data.metrics.http_reqs.values.count }}) + '\\n',
}});
"""


class Answering(asyncio.Protocol):
    """Answers once a request is complete."""

    def connection_made(self, transport: Any) -> None:
        """Stores the transport of a new connection."""
        self._transport, self._missing = transport, 0

    def data_received(self, data: bytes) -> None:
        """Receives a part of a request; the head must come in one piece."""
        if not self._missing:
            head, _, data = data.partition(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
            self._missing = int(length)
        self._missing -= len(data)
        if not self._missing:
            self._transport.write(ANSWER)


def serve(sender: Any) -> None:
    """Runs a server in this process; sends its port."""

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0)
        sender.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(run())


@contextlib.contextmanager
def serving() -> Iterator[int]:
    """Runs a server in its own process; yields its port."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(sender,))
    process.start()
    try:
        yield receiver.recv()
    finally:
        process.terminate()
        process.join()


def measure_ours(port: int, connections: int, seconds: int, rate: float | None) -> dict[str, float]:
    """Measures a block of `slimq loadtest`."""
    head = f"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {BODY_BYTES}\r\n\r\n".encode()
    requests = Requests(head, (b"x" * BODY_BYTES,))

    async def run() -> dict[str, float]:
        pool = Pool(Address("127.0.0.1", port, tls=False, prefix=""), connections)
        await pool.fill()
        begin, processor = time.perf_counter(), time.process_time()
        if rate is None:
            answers = await drive_closed(pool, requests, seconds, 5)
        else:
            answers = await drive_open(pool, requests, seconds, 5, rate)
        took = time.perf_counter() - begin
        used = time.process_time() - processor
        await pool.close()
        found = {
            "requests/s": answers.answered / took,
            "generator, µs": used / answers.answered * 1e6,
            "p50, µs": float(np.quantile(answers.latencies, 0.5)) * 1e6,
        }
        if rate is not None:
            found["late p50, µs"] = float(np.quantile(answers.lateness, 0.5)) * 1e6
        return found

    return asyncio.Runner(loop_factory=uvloop.new_event_loop).run(run())


def measure_program(command: list[str], requests: Any, seconds: int) -> dict[str, float]:
    """Measures a load generator; `requests` reads the number of requests from its output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    count = requests(done.stdout)
    return {"requests/s": count / seconds, "generator, µs": used / count * 1e6}


def measure_wrk(port: int, connections: int, seconds: int, folder: Path) -> dict[str, float]:
    """Measures wrk."""
    script = folder / "body.lua"
    script.write_text(WRK.format(size=BODY_BYTES))
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script)]
    command = ["wrk", *options, f"http://127.0.0.1:{port}/"]

    def read(text: str) -> int:
        (line,) = [line for line in text.splitlines() if " requests in " in line]
        return int(line.split()[0])

    return measure_program(command, read, seconds)


def measure_k6(
    program: str, port: int, connections: int, seconds: int, folder: Path
) -> dict[str, float]:
    """Measures k6."""
    script = folder / "load.js"
    url = f"http://127.0.0.1:{port}/"
    script.write_text(K6.format(size=BODY_BYTES, connections=connections, seconds=seconds, url=url))
    command = [program, "run", "-q", "--no-usage-report", str(script)]
    return measure_program(command, lambda text: json.loads(text)["requests"], seconds)


def main() -> None:
    """Measures every generator and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--connections", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--k6", default=shutil.which("k6"))
    arguments = parser.parse_args()
    seconds = arguments.seconds
    rows: dict[str, dict[str, float]] = {}
    with serving() as port, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for connections in arguments.connections:
            where = f"{connections} connections"
            rows[f"slimq, closed, {where}"] = measure_ours(port, connections, seconds, None)
            if shutil.which("wrk"):
                rows[f"wrk, {where}"] = measure_wrk(port, connections, seconds, folder)
            if arguments.k6:
                found = measure_k6(arguments.k6, port, connections, seconds, folder)
                rows[f"k6, {where}"] = found
        rows[f"slimq, open, {RATE:g}/s"] = measure_ours(port, 64, seconds, RATE)
    for label, figures in rows.items():
        told = "  ".join(f"{name} {value:,.0f}" for name, value in figures.items())
        sys.stdout.write(f"{label:32}{told}\n")


if __name__ == "__main__":
    main()
