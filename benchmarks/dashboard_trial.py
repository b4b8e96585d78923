"""Runs a real service, a real Prometheus and real requests, as data for dashboards.

Everything is on loopback and ends with the trial. Prometheus has the deployed rules and scrape
interval.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import yaml  # type: ignore[import-untyped]

import dashboard_queries as queries
from serving_processes import Server
from slimq.core.manifest import Shadow
from slimq.core.publish import Publisher
from slimq.core.repository import Repository

ROOT = Path(__file__).parents[1]
CONFIGURATION = ROOT / "docker" / "prometheus"
START_SECONDS = 60.0
STOP_SECONDS = 15.0
SETTLE_SECONDS = 60.0
WRONG_EVERY = 50
"""One in this many requests is invalid, so that there are errors to see."""
LARGEST = 8
"""Largest number of observations of a request; most requests have 1."""


class TrialError(Exception):
    """A program that a trial needs is missing or does not start."""


@dataclass
class Sent:
    """Counts of a variant: responses by status, and observations that were answered."""

    statuses: Counter[int] = field(default_factory=Counter)
    observations: int = 0

    def add(self, other: Sent) -> None:
        """Adds the counts of another client."""
        self.statuses.update(other.statuses)
        self.observations += other.observations


def build_repository(
    source: Repository, target: Path, policy: str, variants: Sequence[str], shadow: str
) -> Repository:
    """Builds a repository of some variants of a policy, one of which shadows the others.

    Args:
        source: the repository to copy from.
        target: the folder to create.
        policy: the policy's name.
        variants: the variants' names.
        shadow: the shadow variant.
    """
    home = target / policy
    home.mkdir(parents=True)
    for path in (source.root / policy).iterdir():
        if path.is_file():
            shutil.copy(path, home)
    made = Repository(target)
    for variant in variants:
        shutil.copytree(
            source.variant_folder(policy, variant), made.variant_folder(policy, variant)
        )
    Publisher(made).shadow(policy, Shadow(variant=shadow, share=1))
    return made


@contextlib.contextmanager
def serving(repository: Repository, folder: Path, *options: str) -> Iterator[str]:
    """Runs `slimq serve`; yields its URL.

    Args:
        repository: the repository to serve.
        folder: folder for the log.
        options: further options of the command.
    """
    command = [sys.executable, "-m", "slimq.cli.main", "serve", "--port", "0"]
    command += ["--policies", str(repository.root), *options]
    server = Server("slimq", command, os.sched_getaffinity(0), folder / "slimq.log")
    try:
        yield server.url.rstrip("/")
    finally:
        server.stop()


@contextlib.contextmanager
def prometheus(target: str, folder: Path) -> Iterator[str]:
    """Runs a Prometheus that scrapes a service, with the deployed rules; yields its URL.

    Args:
        target: the service's URL.
        folder: folder for its data, configuration and log.

    Raises:
        TrialError: it is not installed, or does not start.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise TrialError("prometheus is not installed: apt-get install prometheus")
    text = configuration_for(target)
    (folder / "prometheus.yml").write_text(text, encoding="utf-8")
    shutil.copytree(CONFIGURATION / "rules", folder / "rules")
    log = folder / "prometheus.log"
    command = [program, f"--config.file={folder / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", "--web.listen-address=127.0.0.1:0"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield _wait(process, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_settled(source: str) -> None:
    """Waits until a Prometheus has scraped all targets once more, then evaluated all rules.

    Raises:
        TrialError: it takes too long.
    """
    for latest in (queries.first_scrape, queries.first_evaluation):
        now = time.time()
        while latest(source) < now:
            if time.time() > now + SETTLE_SECONDS:
                raise TrialError(f"Prometheus has done nothing for {SETTLE_SECONDS:g} s")
            time.sleep(0.1)


def configuration_for(target: str) -> str:
    """The deployed configuration, with this service in place of discovery by DNS.

    Raises:
        TrialError: the configuration has an unknown form.
    """
    configuration = yaml.safe_load((CONFIGURATION / "prometheus.yml").read_text(encoding="utf-8"))
    jobs = [job for job in configuration["scrape_configs"] if job["job_name"] == "slimq"]
    if len(jobs) != 1 or "dns_sd_configs" not in jobs[0]:
        raise TrialError("prometheus.yml: expected one job slimq with dns_sd_configs")
    configuration["scrape_configs"] = jobs
    del jobs[0]["dns_sd_configs"]
    jobs[0]["static_configs"] = [{"targets": [urlsplit(target).netloc]}]
    return str(yaml.safe_dump(configuration, sort_keys=False))


def _wait(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        said = log.read_text(encoding="utf-8")
        address = re.search(r'"Listening on" address=(\S+)', said)
        if address is not None:
            with contextlib.suppress(OSError), urlopen(f"http://{address[1]}/-/ready", timeout=5):
                return f"http://{address[1]}"
        time.sleep(0.1)
    raise TrialError(f"prometheus does not start:\n{log.read_text(encoding='utf-8')[-2000:]}")


def send(
    url: str, repository: Repository, policy: str, variants: Sequence[str], seconds: float
) -> dict[str, Sent]:
    """Sends observations of real play to each variant for a time, with two clients each.

    The clients pause between requests, the second one less and less, so that the load grows.

    Returns:
        The responses by variant.
    """
    manifest = repository.policy(policy)
    calibration = repository.calibration(manifest)
    if calibration is None:
        raise TrialError(f"{policy} has no calibration set to send")
    states = calibration.observations(manifest.observation)
    clients = [(variant, growing, Sent()) for variant in variants for growing in (False, True)]
    problems: list[Exception] = []

    def work(variant: str, growing: bool, seen: Sent) -> None:
        path = f"/v1/policies/{policy}/variants/{variant}/act"
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        began, number = time.monotonic(), 0
        try:
            while (passed := time.monotonic() - began) < seconds:
                count = LARGEST if number % 10 == 9 else 1
                first = number % (len(states) - LARGEST)
                body = states[first : first + count].tobytes()
                wrong = number % WRONG_EVERY == WRONG_EVERY - 1
                headers = {"content-type": "application/octet-stream"}
                connection.request("POST", path, body[1:] if wrong else body, headers)
                answer = connection.getresponse()
                answer.read()
                seen.statuses[answer.status] += 1
                seen.observations += 0 if wrong else count
                number += 1
                time.sleep(max(0.005, 0.1 * (1 - passed / seconds)) if growing else 0.05)
        except Exception as error:  # reported after the threads have ended
            problems.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=client) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise TrialError(f"a client failed: {problems[0]!r}") from problems[0]
    sent = {variant: Sent() for variant in variants}
    for variant, _, seen in clients:
        sent[variant].add(seen)
    return sent
