"""The rounds of `serving.py`, which start, load and measure the servers."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

import serving_cases as cases
import serving_repositories as repositories
from serving_batches import best_batch_seconds
from serving_cases import Case, Request, Side
from serving_load import drive
from serving_processes import Server, on_cores
from serving_requests import Prepared, check, observe, path_of, prepare, write_body
from serving_table import Measurement, Result
from slimq.core.repository import Repository

SLIMQ = (sys.executable, "-m", "slimq.cli.main")
PEERS = Path(__file__).with_name("serving_peers.py")
UNMEASURED = Path(__file__).with_name("serving_unmeasured.py")
WARM_SECONDS = 1
MIN_WORKERS = 2
SETTLE_SECONDS = 10.0
"""Time within which the service must have reloaded a republished variant's first model."""


@dataclass
class Bench:
    """Settings and shared state of a run.

    Attributes:
        source: the shipped repository.
        folder: folder for everything that is written.
        seconds: duration of one measurement.
        server_cores: cores of servers, except in cases that use every core.
        load_cores: cores of wrk, except in those cases.
        all_cores: cores of both in those cases.
        prepared: requests prepared so far, with the files of their bodies.
    """

    source: Repository
    folder: Path
    seconds: int
    server_cores: set[int]
    load_cores: set[int]
    all_cores: set[int]
    prepared: dict[Request, tuple[Prepared, Path]] = field(default_factory=dict)

    @property
    def workers(self) -> int:
        """Number of workers of a service that uses every core."""
        return max(MIN_WORKERS, len(self.all_cores))

    def repository(self, server: str) -> Repository:
        """The repository for a server, built when it is first needed."""
        builders: dict[str, Callable[[Repository, Path], None]] = {
            cases.FEW: repositories.build_few,
            cases.MANY: repositories.build_many,
            cases.CHANGING: repositories.build_changing,
        }
        if server not in builders:
            return self.source
        path = self.folder / server
        if not path.exists():
            builders[server](self.source, path)
        return Repository(path)

    def request(self, side: Side) -> tuple[Prepared, Path]:
        """A side's request, and the file with its body."""
        request = side.request
        if request not in self.prepared:
            observation, _ = observe(self.source, request.policy)
            prepared = prepare(self.repository(side.server), request, observation)
            self.prepared[request] = prepared, write_body(self.folder, request, prepared)
        return self.prepared[request]

    def start(self, name: str, *, spread: bool) -> Server:
        """Starts a server, loads all its variants if the case requires that, and pauses it."""
        repository = self.repository(name)
        if name in (cases.CEILING, cases.PLAIN, cases.ECHO):
            command = [sys.executable, str(PEERS), name, "--policies", str(repository.root)]
        elif name == cases.UNMEASURED:
            command = [sys.executable, str(UNMEASURED), "--policies", str(repository.root)]
        else:
            command = [*SLIMQ, "serve", "--policies", str(repository.root), "--port", "0"]
        if name == cases.WORKERS:
            command += ["--workers", str(self.workers)]
        cores = self.all_cores if spread else self.server_cores
        log = self.folder / f"{name}{'-spread' if spread else ''}.log"
        server = Server(name, command, cores, log)
        try:
            if name in (cases.FEW, cases.MANY):
                repositories.load_all(server.url, repository)
            elif name == cases.WORKERS:
                repositories.load_in_workers(server.url, self.workers)
            server.pause()
        except BaseException:
            server.stop()
            raise
        return server


class Round:
    """The servers of one round, each started when it is first measured."""

    def __init__(self, bench: Bench, stack: contextlib.ExitStack) -> None:
        self._bench, self._stack = bench, stack
        self._servers: dict[tuple[str, bool], Server] = {}
        self._warm: set[tuple[Server, Request]] = set()

    def measure(self, case: Case, side: Side) -> Measurement:
        """Measures one side of a case, on a server that has been checked and warmed up."""
        bench = self._bench
        server = self._server(side.server, spread=case.spread)
        prepared, body = bench.request(side)
        url = server.url + path_of(side.server, side.request)
        server.resume()
        try:
            if side.server != cases.ECHO:
                check(url, prepared, SETTLE_SECONDS if side.server == cases.CHANGING else 0.0)
            cores = bench.all_cores if case.spread else bench.load_cores
            with on_cores(cores):
                load = (url, body, prepared.headers, case.connections)
                if (server, side.request) not in self._warm:
                    drive(*load, WARM_SECONDS)
                    self._warm.add((server, side.request))
                with self._meanwhile(side, server):
                    before = server.processor_seconds()
                    seen = drive(*load, bench.seconds)
                    processor = server.processor_seconds() - before
            server.check()
        finally:
            server.pause()
        batch = 0.0
        if side.server == cases.ECHO:
            batch = best_batch_seconds(bench.source, side.request, len(cores))
        return Measurement(seen, processor, batch, len(cores))

    def _server(self, name: str, *, spread: bool) -> Server:
        key = (name, spread)
        if key not in self._servers:
            self._servers[key] = self._bench.start(name, spread=spread)
            self._stack.callback(self._servers[key].stop)
        return self._servers[key]

    def _meanwhile(self, side: Side, server: Server) -> contextlib.AbstractContextManager[None]:
        if side.meanwhile == cases.SCRAPE:
            return repositories.scraping(server.url)
        if side.meanwhile == cases.REPUBLISH:
            target = self._bench.repository(side.server).root
            policy = side.request.policy
            return repositories.republishing(server.url, self._bench.source, target, policy)
        return contextlib.nullcontext()


def run(bench: Bench, chosen: Sequence[Case], rounds: int) -> list[Result]:
    """Measures all cases in every round; the first case and the order of sides change."""
    taken: dict[str, tuple[list[Measurement], list[Measurement]]] = {
        case.name: ([], []) for case in chosen
    }
    with tqdm(total=2 * rounds * len(chosen), unit="load", disable=None) as progress:
        for number in range(rounds):
            start = number * len(chosen) // rounds
            with contextlib.ExitStack() as stack:
                servers = Round(bench, stack)
                for case in (*chosen[start:], *chosen[:start]):
                    for ours in (True, False) if number % 2 == 0 else (False, True):
                        progress.set_description(case.name)
                        side = case.measured if ours else case.base
                        taken[case.name][0 if ours else 1].append(servers.measure(case, side))
                        progress.update()
    return [Result(case, *taken[case.name]) for case in chosen]
