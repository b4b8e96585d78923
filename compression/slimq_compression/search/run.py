"""Searches recipes on the Pareto front of bytes, latency and return, with one worker or more.

Workers share only the study on disk, so an interrupted search resumes after its last finished trial
when run again. With one worker, equal seeds and equal published variants give equal trials as long
as these are random (the first `STARTUP`); later ones depend on measured latencies, which vary.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from typing import Any

import optuna
import structlog
from optuna.trial import FrozenTrial, TrialState

from slimq.core.errors import CheckFailedError, describe_system_error
from slimq.core.interrupts import interrupts_ignored
from slimq.core.manifest import SearchRecord
from slimq.core.repository import Repository
from slimq.core.threads import limit_threads
from slimq_compression.compress import ensure_baseline
from slimq_compression.conditions import standard_trials
from slimq_compression.context import Progress, ignore, silent
from slimq_compression.search.proposals import Space
from slimq_compression.search.spaces import open_space
from slimq_compression.search.stages import Stages
from slimq_compression.search.study import (
    SearchSettings,
    StudyClock,
    complete_trials,
    finished_trials,
    is_nondominated,
    lock_study,
    open_study,
    record_terms,
    requeue_trials,
    requeue_trials_of,
    round_objectives,
)
from slimq_compression.search.worker import Worker
from slimq_compression.source import Source, load_source

POLL_SECONDS, STOP_SECONDS = 0.5, 10.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Found:
    """A complete trial.

    Attributes:
        number: number of the trial.
        candidate: description of the candidate.
        bytes: size on disk.
        latency_us: latency of one call, see `stages`.
        latency_ratio: latency relative to the baseline's.
        agreement: agreement on the calibration set.
        score: mean score after the trial's short training; 0 is random play, 1 the baseline.
        low: lower 95 % bound of the paired difference; None if the gate's episodes were not played.
        loss: 1 − score, at least 0; or the largest loss under a condition, if that is more.
        params: Optuna's parameters.
        acceptable: whether it passed the gate's episodes, or lost no more than the margin in too
            few of them to decide, and the same under each condition.
        lost: label of the condition that it failed; None if it failed none.
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
    acceptable: bool = False
    lost: str | None = None

    def passed(self, margin: float) -> bool:
        """Whether it passed the gate's episodes in the search, under conditions, too."""
        return self.low is not None and self.low >= -margin and self.lost is None


@dataclass(frozen=True)
class Snapshot:
    """Progress of a search.

    Attributes:
        ended: number of finished trials.
        complete: number of complete trials.
        best: the first of `ranking`; None if no trial is complete.
        running: descriptions of the trials in progress.
        smallest: the smallest acceptable trial; None if there is none.
        full_bytes: size of the full variant.
    """

    ended: int
    complete: int
    best: Found | None
    running: tuple[str, ...] = ()
    smallest: Found | None = None
    full_bytes: int = 0


OnTrial = Callable[[Snapshot], None]


def search(
    settings: SearchSettings, *, on_trial: OnTrial = ignore, progress: Progress = silent
) -> optuna.Study:
    """Runs trials until the requested number or the time limit is reached.

    Args:
        settings: settings of the search; an existing study of the same name is resumed.
        on_trial: called at the start and whenever trials have finished.
        progress: opens progress bars, for the baseline's episodes.

    Raises:
        NotFoundError: the policy does not exist.
        ConfigError: another search is using the study.
        InvalidInputError: the study was made with other settings.
        CheckFailedError: the baseline is no better than random play, or a worker died.
        KeyboardInterrupt: interrupted; the study can be resumed.
    """
    repository = Repository(settings.policies)
    source = load_source(repository, settings.policy)
    with lock_study(settings.folder):
        study = open_study(settings)
        requeue_trials(study, settings.folder)
        space, started = open_space(settings, source), time.monotonic()
        _prepare(settings, study, space, source, repository, progress)
        clock, ended = StudyClock(study, started), -1

        def after_trial(now: Snapshot) -> None:
            nonlocal ended
            if now.ended != ended:  # a killed run loses only the time of trials in progress
                ended = now.ended
                clock.note()
            on_trial(now)

        after_trial(snapshot(study, settings))
        missing = settings.trials - len(finished_trials(study))
        if missing > 0:
            space.prepare(study, repository)
        try:
            if settings.workers == 1 and settings.plan == "sampled":
                _work_here(settings, study, missing, after_trial)
            elif missing > 0:
                _work_in_processes(settings, study, missing, after_trial)
        finally:
            requeue_trials(study, settings.folder)
            clock.note()
    return study


def record_of(settings: SearchSettings, study: optuna.Study) -> SearchRecord:
    """The record of the search, for the manifests of variants that it found."""
    return SearchRecord(
        command="shrink" if settings.plan == "ladder" else "search",
        minutes=round(study.user_attrs.get("seconds", 0.0) / 60, 1),
        trials=len(finished_trials(study)),
        workers=settings.workers,
    )


def snapshot(study: optuna.Study, settings: SearchSettings) -> Snapshot:
    """Progress of a study."""
    ranked = ranking(study, settings.margin)
    best = ranked[0] if ranked else None
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    names = tuple(t.user_attrs["candidate"] for t in running if "candidate" in t.user_attrs)
    found = [one for one in found_trials(study) if one.acceptable]
    return Snapshot(
        ended=len(finished_trials(study)),
        complete=len(complete_trials(study)),
        best=best,
        running=names,
        smallest=min(found, key=lambda one: one.bytes, default=None),
        full_bytes=study.user_attrs.get("reference", {}).get("bytes", 0),
    )


def pareto_front(study: optuna.Study) -> list[Found]:
    """The non-dominated trials, ordered by bytes; among equals, only the first."""
    done = complete_trials(study)
    kept: dict[tuple[float, ...], FrozenTrial] = {}
    for trial in done:
        if is_nondominated(trial.values, (other.values for other in done)):
            kept.setdefault(round_objectives(trial.values), trial)
    return sorted((_found(trial) for trial in kept.values()), key=lambda f: (f.bytes, f.loss))


def found_trials(study: optuna.Study) -> list[Found]:
    """All complete trials."""
    return [_found(trial) for trial in complete_trials(study)]


def ranking(study: optuna.Study, margin: float) -> list[Found]:
    """The Pareto front, best first: trials that passed the gate by bytes, then others by loss."""

    def key(found: Found) -> tuple[bool, float, int, float]:
        passed = found.passed(margin)
        return not passed, 0.0 if passed else found.loss, found.bytes, found.latency_us

    return sorted(pareto_front(study), key=key)


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
        acceptable=bool(known.get("passed")),
        lost=known.get("lost"),
    )


def _prepare(
    settings: SearchSettings,
    study: optuna.Study,
    space: Space,
    source: Source,
    repository: Repository,
    progress: Progress,
) -> None:
    """Records or checks the study's settings, and makes and measures the baseline if necessary."""
    ensure_baseline(repository, settings.policy, progress=progress)
    variant, model = repository.read_model(settings.policy, source.manifest.baseline_variant)
    shared = ("max_bytes", "max_latency_us", "margin", "seed", "effort", "robust")
    terms = {name: getattr(settings, name) for name in shared}
    terms |= {f"{n}_episodes": getattr(settings, f"{n}_episodes") for n in ("screening", "gate")}
    terms |= {"checkpoint": source.checkpoint_sha256, "baseline": variant.model.sha256}
    terms |= space.terms
    terms["space"] = space.digest
    record_terms(study, terms, "--work" if settings.plan == "ladder" else "--study")
    if "reference" not in study.user_attrs:
        trials = standard_trials(repository, source) if settings.robust else ()
        stages = Stages(source, model, trials)
        reference = stages.reference(variant.model.bytes, settings, progress)
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
    """Workers take a ticket per trial, so that exactly the requested number is run."""
    spawn = multiprocessing.get_context("spawn")
    tickets = spawn.Semaphore(missing)
    problems = spawn.SimpleQueue()
    workers = [
        spawn.Process(target=_work, args=(settings, tickets, problems), name=f"search-{index}")
        for index in range(1, min(settings.workers, missing) + 1)
    ]
    seen = snapshot(study, settings)
    try:
        with interrupts_ignored():
            for worker in workers:
                worker.start()
        while any(worker.is_alive() for worker in workers):
            time.sleep(POLL_SECONDS)
            _requeue_dead(study, workers)
            now = snapshot(study, settings)
            if now != seen or settings.plan == "ladder":  # its bar shows the time
                seen = now
                on_trial(now)
    finally:
        _stop(workers)
    on_trial(snapshot(study, settings))
    died = [f"{w.name} (exit code {w.exitcode})" for w in workers if w.exitcode]
    if died:
        problem = f"{', '.join(died)} died, perhaps out of memory"
        if not problems.empty():
            problem = problems.get()
        if settings.plan == "ladder" and len(died) < len(workers):
            _log.warning("the others continued", problem=problem)
            return
        raise CheckFailedError(f"search: {problem}; rerun the command to resume")


def _requeue_dead(study: optuna.Study, workers: list[SpawnProcess]) -> None:
    """Requeues the trials of workers that died, for which others may be waiting."""
    for worker in workers:
        if worker.exitcode and worker.pid is not None:
            requeue_trials_of(study, worker.pid)


def _work(settings: SearchSettings, tickets: Any, problems: Any) -> None:
    """Entry point of a worker process."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
    threading.Thread(target=_end_with_parent, daemon=True).start()
    limit_threads(settings.threads)
    try:
        Worker(settings).run(lambda: tickets.acquire(block=False), lambda: None)
    except OSError as error:  # such as a full disk
        problems.put(describe_system_error(error))
        sys.exit(1)


def _end_with_parent() -> None:
    """Ends this process when its parent dies, which counts trials and holds the folder's lock."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _stop(workers: list[SpawnProcess]) -> None:
    """Stops running workers without waiting for their trials."""
    running = [worker for worker in workers if worker.is_alive()]
    for worker in running:
        worker.terminate()
    for worker in running:
        worker.join(STOP_SECONDS)
        if worker.is_alive():
            worker.kill()
            worker.join()
