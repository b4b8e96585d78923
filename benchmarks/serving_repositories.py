"""Builds the repositories to serve, and scrapes or republishes under load."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from serving_requests import AnswerError, ask
from slimq.core.publish import Publisher
from slimq.core.repository import Repository

POLICIES = ("cartpole", "pong")
FULL = "fp32"
ALTERNATE = "int8"
"""The variant whose model alternates with the full one's in republishing."""
CHANGING = "changing"
MANY = 60
EVERY_SECONDS = 1.0
LOWEST_PRIORITY = 19
LEAST_SHARE = 0.7
"""Minimum share of the actions due every second that must happen."""
START_SECONDS = 60.0


def build_few(source: Repository, target: Path) -> None:
    """Builds a repository with each policy's full variant."""
    for policy in POLICIES:
        _copy_policy(source, target, policy)


def build_many(source: Repository, target: Path) -> None:
    """Builds a repository of `MANY` variants: each policy's full one, and copies of all others."""
    build_few(source, target)
    available = [(policy, name) for policy in POLICIES for name in source.variants(policy)]
    for number, (policy, name) in enumerate(itertools.cycle(available)):
        if number == MANY - len(POLICIES):
            return
        _copy_variant(source, target, policy, name, f"copy-{number:02}-{name}"[:64])


def build_changing(source: Repository, target: Path) -> None:
    """Builds a repository in which each policy has a variant to republish."""
    for policy in POLICIES:
        _copy_policy(source, target, policy)
        _copy_variant(source, target, policy, FULL, CHANGING)


def load_all(url: str, repository: Repository) -> None:
    """Makes the service load every variant.

    Raises:
        AnswerError: it did not.
    """
    for policy in POLICIES:
        ask("POST", f"{url}/v2/repository/models/{policy}/load")
    health = json.loads(ask("GET", f"{url}/readyz")[1])["variants"]
    loaded = sum(entry["state"] == "loaded" for entry in health)
    expected = sum(len(repository.variants(policy)) for policy in POLICIES)
    if loaded != expected:
        raise AnswerError(f"{url} has loaded {loaded} variants, expected {expected}")


def load_in_workers(url: str, workers: int) -> None:
    """Makes every worker load each policy's full variant, by repeated requests.

    Raises:
        AnswerError: not all of them have loaded it in time.
    """
    deadline = time.monotonic() + START_SECONDS
    body = json.dumps({"parameters": {"variants": [FULL]}}).encode()
    while True:
        for policy in POLICIES:
            ask("POST", f"{url}/v2/repository/models/{policy}/load", body=body)
        loaded = [_read(url, "slimq_variant_loaded", policy, FULL) for policy in POLICIES]
        if loaded == [workers] * len(POLICIES):
            return
        if time.monotonic() >= deadline:
            raise AnswerError(f"of {workers} workers at {url} have loaded {FULL}: {loaded}")
        time.sleep(0.2)


@contextlib.contextmanager
def scraping(url: str) -> Iterator[None]:
    """Reads /metrics every second, as Prometheus would, and once before that."""
    ask("GET", f"{url}/metrics")
    with _every_second(lambda: ask("GET", f"{url}/metrics")):
        yield


@contextlib.contextmanager
def republishing(url: str, source: Repository, target: Path, policy: str) -> Iterator[None]:
    """Publishes another model under a variant's name every second, and the first one at the end.

    Raises:
        AnswerError: the service loaded none of them.
    """
    models = itertools.cycle((ALTERNATE, FULL))

    def publish() -> None:
        _copy_variant(source, target, policy, next(models), CHANGING)

    before = _loads(url, policy)
    try:
        with _every_second(publish):
            yield
        if _loads(url, policy) == before:
            raise AnswerError(f"{url} did not load any model that was published meanwhile")
    finally:
        _copy_variant(source, target, policy, FULL, CHANGING)


@contextlib.contextmanager
def _every_second(action: Callable[[], object]) -> Iterator[None]:
    """Performs an action at once and every second; raises its exception at the end.

    The action has the lowest priority, since in production it would be on another machine.
    """
    ended = threading.Event()
    problems: list[Exception] = []
    times, began = 0, time.monotonic()

    def repeat() -> None:
        nonlocal times
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
            while True:
                action()
                times += 1
                if ended.wait(EVERY_SECONDS):
                    return
        except Exception as error:
            problems.append(error)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if problems:
        raise problems[0]
    expected = LEAST_SHARE * (time.monotonic() - began) / EVERY_SECONDS
    if times < expected:
        raise AnswerError(f"what was to happen {expected:.0f} times under load did {times} times")


def _loads(url: str, policy: str) -> float:
    """Number of times that the service has loaded the republished variant."""
    return _read(url, "slimq_variant_loads_total", policy, CHANGING, 'outcome="success",')


def _read(url: str, metric: str, policy: str, variant: str, labels: str = "") -> float:
    """A metric of a variant; 0 if there is none. `labels` are those that sort before `policy`."""
    content = ask("GET", f"{url}/metrics")[1].decode()
    selected = f'{metric}{{{labels}policy="{policy}",variant="{variant}"}} '
    found = re.search(rf"^{re.escape(selected)}(\S+)$", content, re.MULTILINE)
    return float(found[1]) if found else 0.0


def _copy_policy(source: Repository, target: Path, policy: str) -> None:
    """Copies a policy and its full variant, without the files of training."""
    changes = {
        "checkpoint": None,
        "calibration": None,
        "baseline_variant": FULL,
        "default_variant": FULL,
        "previous_default": None,
        "routing": None,
        "shadow": None,
    }
    manifest = source.policy(policy).model_copy(update=changes)
    target.mkdir(exist_ok=True)
    Publisher(Repository(target)).publish_policy(manifest, {})
    _copy_variant(source, target, policy, FULL, FULL)


def _copy_variant(source: Repository, target: Path, policy: str, name: str, new: str) -> None:
    manifest = source.variant(policy, name)
    stored = (source.variant_folder(policy, name) / manifest.model.path).read_bytes()
    renamed = manifest.model_copy(update={"name": new, "report": None})
    Publisher(Repository(target)).publish_variant(renamed, stored)
