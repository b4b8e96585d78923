"""A search on disk: settings, trials and their figures, in a journal that survives a kill.

`runs/search/<policy>/<study>/journal.jsonl` is Optuna's journal. A search locks its folder; running
trials that it finds were left by a search that died, and are requeued.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from slimq.core.atomic import naming
from slimq.core.errors import ConfigError, InvalidInputError
from slimq.core.interrupts import interrupts_deferred
from slimq.core.locks import hold_lock, make_lock
from slimq.core.manifest import SLUG
from slimq.core.threads import MAX_THREADS
from slimq_compression.context import step_seed

JOURNAL, LOCK = "journal.jsonl", "search.lock"
OBJECTIVES = ("bytes", "latency_us", "loss")
STARTUP = 16
"""Random trials before the sampler builds a model."""
MAX_ATTEMPTS = 3
"""Maximum attempts at a trial that does not finish, since the trial may be killing its worker."""


@dataclass(frozen=True)
class SearchSettings:
    """Settings of a search.

    Attributes:
        policies: the repository's folder.
        policy: the policy's name.
        max_bytes: maximum size of the model on disk.
        max_latency_us: maximum latency of a call with one observation, on this machine.
        margin: non-inferiority margin of undisturbed play, as in a recipe's gate.
        trials: total trials of the study, including those of earlier runs.
        minutes: time limit of this run, or of all runs of a ladder; a trial that has started is
            finished.
        workers: number of processes.
        threads: threads of each of them.
        seed: seed of the sampler and of the recipes.
        effort: share of the full training for each trial.
        screening_episodes: episodes for every trial that has not been pruned by then.
        gate_episodes: episodes for trials on the Pareto front, or for all promising trials of a
            ladder; None to choose by the variance of the full policy's returns.
        work: folder of studies.
        study: name of the study; by default made of the limits, the margin and the seed.
        plan: strategy that chooses trials: a sampler, or the ladder of `slimq shrink`.
        robust: whether trials must pass under the standard conditions, too, if the policy has an
            environment.
    """

    policies: Path
    policy: str
    max_bytes: int | None = None
    max_latency_us: float | None = None
    margin: float = 0.02
    trials: int = 100
    minutes: float = 60.0
    workers: int = 1
    threads: int = 1
    seed: int = 0
    effort: float = 0.15
    screening_episodes: int = 10
    gate_episodes: int | None = 30
    work: Path = Path("runs/search")
    study: str | None = None
    plan: Literal["sampled", "ladder"] = "sampled"
    robust: bool = True

    def __post_init__(self) -> None:
        ranges: list[tuple[str, float, float]] = [
            ("trials", 1, 100_000),
            ("workers", 1, 1_024),
            ("threads", 1, MAX_THREADS),
            ("seed", 0, 2**31 - 1),
            ("screening_episodes", 2, 10_000),
            ("gate_episodes", 2, 10_000),
        ]
        for name, low, high in ranges:
            if getattr(self, name) is not None and not low <= getattr(self, name) <= high:
                raise InvalidInputError(name, f"{low} to {high}", str(getattr(self, name)))
        for name, high in (("minutes", 1e6), ("effort", 1.0)):
            if not 0 < getattr(self, name) <= high:
                expected = f"more than 0, at most {high:g}"
                raise InvalidInputError(name, expected, str(getattr(self, name)))
        if not 0 <= self.margin <= 1:
            raise InvalidInputError("margin", "0 to 1", str(self.margin))
        if self.study is not None and not re.fullmatch(SLUG, self.study):
            raise InvalidInputError("study", "a name such as small-0.2", repr(self.study))

    @property
    def name(self) -> str:
        """Name of the study; by default, different limits give different studies."""
        if self.study is not None:
            return self.study
        parts = [] if self.max_bytes is None else [f"bytes-{self.max_bytes}"]
        parts += [] if self.max_latency_us is None else [f"latency-{self.max_latency_us:g}us"]
        parts += [] if self.robust else ["undisturbed"]
        return "_".join([*parts, f"margin-{self.margin:g}", f"seed-{self.seed}"])

    @property
    def folder(self) -> Path:
        """Folder of the study."""
        return self.work / self.policy / self.name

    @property
    def steps(self) -> Path:
        """Folder of finished training runs, reused for other weight forms and for publishing."""
        return self.folder / "steps"


class _JournalLock(JournalFileOpenLock):
    """A lock that is released when its process is killed, unlike Optuna's own."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._lock = make_lock(path.with_name(f"{path.name}.lock"), poll_seconds=0.01)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


class _Journal(JournalFileBackend):
    """A journal that is named in system errors, such as a full disk."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with naming(Path(self._file_path)):
            super().append_logs(logs)


@contextlib.contextmanager
def lock_study(folder: Path) -> Iterator[None]:
    """Locks a study's folder.

    Raises:
        ConfigError: another search is using it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as locks:
        try:
            locks.enter_context(hold_lock(folder / LOCK))
        except TimeoutError as error:
            problem = "in use by another search; wait, or choose another folder with --work"
            raise ConfigError(str(folder), "study", problem) from error
        _truncate_partial_line(folder)
        yield


def _truncate_partial_line(folder: Path) -> None:
    """Truncates a partial last line left by a kill, so that the next line is a new one."""
    journal = folder / JOURNAL
    if journal.exists():
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(journal, whole)


def open_study(settings: SearchSettings) -> optuna.Study:
    """Opens the study, or creates it; several processes may do so."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = settings.folder / JOURNAL
    lock = _JournalLock(journal)
    return optuna.create_study(
        storage=JournalStorage(_Journal(str(journal), lock)),
        study_name=settings.name,
        sampler=make_sampler(settings.seed, 0),
        directions=["minimize"] * len(OBJECTIVES),
        load_if_exists=True,
    )


def make_sampler(seed: int, number: int) -> TPESampler:
    """Makes the sampler of one trial, so that a resumed search draws like an uninterrupted one."""
    return TPESampler(seed=step_seed(seed, number), n_startup_trials=STARTUP)


def record_terms(study: optuna.Study, terms: Mapping[str, Any], option: str = "--study") -> None:
    """Records the settings that a study's trials share, or checks that they are unchanged.

    Raises:
        InvalidInputError: the study was made with other settings.
    """
    known = study.user_attrs.get("terms")
    if known is None:
        study.set_user_attr("terms", dict(terms))
        return
    for name, value in terms.items():
        if known.get(name) != value:
            expected = f"another one, since this study was made with {name} {known.get(name)}"
            raise InvalidInputError(option, expected, f"{name} {value}")


def requeue_trials(study: optuna.Study, folder: Path) -> int:
    """Requeues trials left running by processes that died; returns their number.

    The caller must hold the lock on the study's folder, and no worker may run.
    """
    _truncate_partial_line(folder)
    left = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in left:
        _requeue(study, trial)
    return len(left)


def requeue_trials_of(study: optuna.Study, process: int) -> None:
    """Requeues the trials of one process that died, while others run."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.user_attrs.get("process") == process:
            _requeue(study, trial)


def _requeue(study: optuna.Study, trial: FrozenTrial) -> None:
    study.tell(trial.number, state=TrialState.FAIL)
    attempt = int(trial.user_attrs.get("attempt", 1))
    params = trial.system_attrs.get("fixed_params") or trial.params  # these may be incomplete
    if params and "reason" not in trial.user_attrs and attempt < MAX_ATTEMPTS:
        study.enqueue_trial(params, user_attrs={"attempt": attempt + 1})


class StudyClock:
    """Adds the time of a run to that of the study, in seconds."""

    def __init__(self, study: optuna.Study, started: float) -> None:
        self._study, self._noted = study, started

    def note(self) -> None:
        """Adds the time since the start, or since the last call."""
        with interrupts_deferred():  # the journal is locked
            now = time.monotonic()
            spent = self._study.user_attrs.get("seconds", 0.0) + now - self._noted
            self._study.set_user_attr("seconds", spent)
            self._noted = now


def seconds_left(settings: SearchSettings, study: optuna.Study) -> float:
    """Seconds left for trials; for a ladder, earlier runs count, too."""
    spent = study.user_attrs.get("seconds", 0.0) if settings.plan == "ladder" else 0.0
    return 60 * settings.minutes - float(spent)


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Finished trials: complete, pruned, or failed with a recorded reason."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        or (trial.state is TrialState.FAIL and "reason" in trial.user_attrs)
    ]


def round_objectives(values: Sequence[float]) -> tuple[float, ...]:
    """Rounds objectives to significant digits; a latency's third digit is noise."""
    size, latency, loss = values
    return size, float(f"{latency:.2g}"), round(loss, 3)


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `one` is no worse in any objective and better in one; all are minimized."""
    pairs = list(zip(round_objectives(one), round_objectives(other), strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def is_nondominated(values: Sequence[float], others: Iterable[Sequence[float]]) -> bool:
    """Whether no other values dominate these."""
    return not any(dominates(other, values) for other in others)


def complete_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Complete trials, which have all objectives."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
