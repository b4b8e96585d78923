"""Searches recipes on the front of bytes, latency and return, in one process or several.

The study on disk is the only thing that workers share: an interrupted search goes on, when it is
run again, from its last ended trial. With one worker, the same seed over the
same published variants draws the same trials for as long as they are random (the first `STARTUP`);
later ones follow measured latencies, which vary.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.context import SpawnProcess
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from slimq.core.errors import CheckFailedError
from slimq.core.repository import Repository
from slimq_compression.accept import AcceptGate
from slimq_compression.context import Progress, ignore, silent
from slimq_compression.pipeline import Source, load_source
from slimq_compression.recipe import parse_recipe
from slimq_compression.search.space import Offer, background_of, digest_of_space
from slimq_compression.search.stages import Stages
from slimq_compression.search.start import enqueue_published
from slimq_compression.search.study import (
    SearchSettings,
    coarse,
    complete,
    ended,
    give_back,
    hold_to,
    on_front,
    only_search,
    open_study,
)
from slimq_compression.search.worker import Worker

POLL_SECONDS, STOP_SECONDS = 0.5, 10.0


@dataclass(frozen=True)
class Found:
    """A trial that was measured to the end.

    Attributes:
        number: of the trial.
        candidate: in words.
        bytes: on disk.
        latency_us: of one call, see `stages`.
        latency_ratio: to the baseline.
        agreement: on the calibration set.
        score: return, 0 random play and 1 the baseline, after the short training of a trial.
        low: lower 95 % bound of the paired difference; None where the gate was not played.
        loss: 1 − score, at least 0.
        params: by which Optuna knows it.
    """

    number: int
    candidate: str
    bytes: int
    latency_us: float
    latency_ratio: float
    agreement: float
    score: float
    low: float | None
    loss: float
    params: dict[str, Any]

    def passed(self, margin: float) -> bool:
        """Whether it held the gate in the search."""
        return self.low is not None and self.low >= -margin


@dataclass(frozen=True)
class Snapshot:
    """How far a search is.

    Attributes:
        ended: trials that count.
        complete: those that were measured to the end.
        best: see `ranking`; None before any is complete.
    """

    ended: int
    complete: int
    best: Found | None


OnTrial = Callable[[Snapshot], None]


def search(
    settings: SearchSettings, *, on_trial: OnTrial = ignore, progress: Progress = silent
) -> optuna.Study:
    """Runs trials until there are as many as asked for, or time is up.

    Args:
        settings: what to look for; an existing study of the same name goes on.
        on_trial: called at the start and whenever trials have ended.
        progress: opens progress bars, for the play of the baseline.

    Raises:
        NotFoundError: there is no such policy.
        ConfigError: another search holds the study, or the baseline variant is missing.
        InvalidInputError: the study was made on other terms.
        CheckFailedError: the baseline is no better than random, or a worker died.
        KeyboardInterrupt: the study is left so that it can go on.
    """
    repository = Repository(settings.policies)
    source = load_source(repository, settings.policy)
    with only_search(settings.folder):
        study = open_study(settings)
        give_back(study, settings.folder)
        _prepare(settings, study, source, repository, progress)
        on_trial(snapshot(study, settings))
        missing = settings.trials - len(ended(study))
        if missing > 0:
            background, network = background_of(source.calibration), source.teacher.spec
            offer, policy = Offer.current(), settings.policy
            enqueue_published(study, repository, policy, network, offer, background)
        try:
            if settings.workers == 1:
                _work_here(settings, study, missing, on_trial)
            elif missing > 0:
                _work_in_processes(settings, study, missing, on_trial)
        finally:
            give_back(study, settings.folder)
    return study


def snapshot(study: optuna.Study, settings: SearchSettings) -> Snapshot:
    """How far a study is."""
    ranked = ranking(study, settings.margin)
    best = ranked[0] if ranked else None
    return Snapshot(len(ended(study)), len(complete(study)), best)


def front(study: optuna.Study) -> list[Found]:
    """The trials that no other dominates, by bytes; of equal ones the first."""
    done = complete(study)
    kept: dict[tuple[float, ...], FrozenTrial] = {}
    for trial in done:
        if on_front(trial.values, (other.values for other in done)):
            kept.setdefault(coarse(trial.values), trial)
    return sorted((_found(trial) for trial in kept.values()), key=lambda f: (f.bytes, f.loss))


def ranking(study: optuna.Study, margin: float) -> list[Found]:
    """The front, best first: what held the gate by bytes, then the rest by loss."""

    def key(found: Found) -> tuple[bool, float, int, float]:
        passed = found.passed(margin)
        return not passed, 0.0 if passed else found.loss, found.bytes, found.latency_us

    return sorted(front(study), key=key)


def _found(trial: FrozenTrial) -> Found:
    known = trial.user_attrs
    return Found(
        number=trial.number,
        candidate=known["candidate"],
        bytes=int(trial.values[0]),
        latency_us=trial.values[1],
        latency_ratio=known["latency_ratio"],
        agreement=known["agreement"],
        score=known["score"],
        low=known.get("low"),
        loss=trial.values[2],
        params=dict(trial.params),
    )


def _prepare(
    settings: SearchSettings,
    study: optuna.Study,
    source: Source,
    repository: Repository,
    progress: Progress,
) -> None:
    """Fixes the study's terms, and measures the baseline where that is not done."""
    gate = AcceptGate(source, repository)
    probe = f'name = "found"\n[accept]\nmargin = {settings.margin}\n'
    gate.require_baseline(parse_recipe(probe, "search"))
    variant, model = repository.read_model(settings.policy, gate.baseline)
    shared = ("max_bytes", "max_latency_us", "margin", "seed", "effort")
    terms = {name: getattr(settings, name) for name in shared}
    terms |= {f"{n}_episodes": getattr(settings, f"{n}_episodes") for n in ("screening", "gate")}
    terms |= {"checkpoint": source.checkpoint_sha256, "baseline": variant.model.sha256}
    offer = Offer.current()
    terms |= {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(offer).items()}
    terms["space"] = digest_of_space(offer)
    hold_to(study, terms)
    if "reference" not in study.user_attrs:
        reference = Stages(source, model).reference(
            variant.model.bytes, settings.screening_episodes, settings.gate_episodes, progress
        )
        study.set_user_attr("reference", reference.model_dump(mode="json"))


def _work_here(
    settings: SearchSettings, study: optuna.Study, missing: int, on_trial: OnTrial
) -> None:
    tickets = iter(range(missing))
    if missing > 0:
        Worker(settings).run(
            lambda: next(tickets, None) is not None, lambda: on_trial(snapshot(study, settings))
        )


def _work_in_processes(
    settings: SearchSettings, study: optuna.Study, missing: int, on_trial: OnTrial
) -> None:
    """Workers take a ticket for each trial, so that there are exactly as many as asked for."""
    spawn = multiprocessing.get_context("spawn")
    tickets = spawn.Semaphore(missing)
    workers = [
        spawn.Process(target=_work, args=(settings, tickets), name=f"search-{index}")
        for index in range(1, min(settings.workers, missing) + 1)
    ]
    seen = len(ended(study))
    try:
        with _interrupts_ignored():
            for worker in workers:
                worker.start()
        while any(worker.is_alive() for worker in workers):
            time.sleep(POLL_SECONDS)
            if (now := len(ended(study))) != seen:
                seen = now
                on_trial(snapshot(study, settings))
    finally:
        _stop(workers)
    on_trial(snapshot(study, settings))
    died = [f"{w.name} (exit code {w.exitcode})" for w in workers if w.exitcode]
    if died:
        problem = f"{', '.join(died)} died, perhaps for lack of memory"
        raise CheckFailedError(f"search: {problem}; run the same command again to go on")


def _work(settings: SearchSettings, tickets: Any) -> None:
    """What a process runs."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    Worker(settings).run(lambda: tickets.acquire(block=False), lambda: None)


def _end_with_parent() -> None:
    """Nobody is left who counts trials, nor who keeps another search out of the folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """What is started within ignores Ctrl-C: the supervisor ends it and gives its trial back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _stop(workers: list[SpawnProcess]) -> None:
    """Ends what still runs; nothing of a trial in progress is worth waiting for."""
    running = [worker for worker in workers if worker.is_alive()]
    for worker in running:
        worker.terminate()
    for worker in running:
        worker.join(STOP_SECONDS)
        if worker.is_alive():
            worker.kill()
            worker.join()
