"""A search on disk: settings, trials and their figures, in a journal that a kill does not harm.

`runs/search/<policy>/<study>/journal.jsonl` is Optuna's. One search at a time holds the folder;
what it finds in there as running was left by one that died, and is tried again.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from slimq.core.errors import ConfigError, InvalidInputError
from slimq.core.locks import hold_lock, make_lock
from slimq.core.manifest import SLUG
from slimq_compression.context import step_seed

JOURNAL, LOCK = "journal.jsonl", "search.lock"
OBJECTIVES = ("bytes", "latency_us", "loss")
STARTUP = 16
"""Random trials before the sampler models what was good."""
ATTEMPTS = 3
"""How often a trial is begun that does not end: it may be what brings its worker down."""


@dataclass(frozen=True)
class SearchSettings:
    """What to look for, and how long.

    Attributes:
        policies: the repository's folder.
        policy: its name.
        max_bytes: limit of the model on disk.
        max_latency_us: limit of a call with one observation, on this machine.
        margin: largest loss that counts as none, as in a recipe's gate.
        trials: of the study, those of earlier runs included.
        minutes: of this run; a trial that has begun is finished.
        workers: processes, of one thread each.
        seed: of the sampler and of the recipes.
        effort: share of the full training that a trial gets.
        screening_episodes: that every trial plays which is not dropped before.
        gate_episodes: that those on the front play.
        work: where studies lie.
        study: its name; by default made of the limits, the margin and the seed.
    """

    policies: Path
    policy: str
    max_bytes: int | None = None
    max_latency_us: float | None = None
    margin: float = 0.02
    trials: int = 100
    minutes: float = 60.0
    workers: int = 1
    seed: int = 0
    effort: float = 0.15
    screening_episodes: int = 10
    gate_episodes: int = 30
    work: Path = Path("runs/search")
    study: str | None = None

    def __post_init__(self) -> None:
        ranges: list[tuple[str, float, float]] = [
            ("trials", 1, 100_000),
            ("workers", 1, 1_024),
            ("seed", 0, 2**31 - 1),
            ("screening_episodes", 2, 10_000),
            ("gate_episodes", 2, 10_000),
        ]
        for name, low, high in ranges:
            if not low <= getattr(self, name) <= high:
                raise InvalidInputError(name, f"{low} to {high}", str(getattr(self, name)))
        for name, high in (("minutes", 1e6), ("effort", 1.0)):
            if not 0 < getattr(self, name) <= high:
                expected = f"above 0, at most {high:g}"
                raise InvalidInputError(name, expected, str(getattr(self, name)))
        if not 0 <= self.margin <= 1:
            raise InvalidInputError("margin", "0 to 1", str(self.margin))
        if self.study is not None and not re.fullmatch(SLUG, self.study):
            raise InvalidInputError("study", "a name such as small-0.2", repr(self.study))

    @property
    def name(self) -> str:
        """Of the study."""
        if self.study is not None:
            return self.study
        parts = [] if self.max_bytes is None else [f"bytes-{self.max_bytes}"]
        parts += [] if self.max_latency_us is None else [f"latency-{self.max_latency_us:g}us"]
        return "_".join([*parts, f"margin-{self.margin:g}", f"seed-{self.seed}"])

    @property
    def folder(self) -> Path:
        """Of the study."""
        return self.work / self.policy / self.name


class _JournalLock(JournalFileOpenLock):
    """A lock that a process that is killed cannot leave behind, unlike Optuna's own."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._lock = make_lock(path.with_name(f"{path.name}.lock"), poll_seconds=0.01)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


@contextlib.contextmanager
def only_search(folder: Path) -> Iterator[None]:
    """Holds a study's folder.

    Raises:
        ConfigError: another search holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(hold_lock(folder / LOCK))
        except TimeoutError as error:
            problem = "another search is at work in it; wait, or give --study another name"
            raise ConfigError(str(folder), "study", problem) from error
        _mend(folder)
        yield


def _mend(folder: Path) -> None:
    """Cuts off a line that a kill left unfinished, lest the next one is joined to it."""
    journal = folder / JOURNAL
    if journal.exists():
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(journal, whole)


def open_study(settings: SearchSettings) -> optuna.Study:
    """The study, created where it is not there; several processes may open it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = settings.folder / JOURNAL
    lock = _JournalLock(journal)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal), lock)),
        study_name=settings.name,
        sampler=make_sampler(settings.seed, 0),
        directions=["minimize"] * len(OBJECTIVES),
        load_if_exists=True,
    )


def make_sampler(seed: int, number: int) -> TPESampler:
    """The sampler of one trial: a resumed search draws as one that was never interrupted."""
    return TPESampler(seed=step_seed(seed, number), n_startup_trials=STARTUP)


def hold_to(study: optuna.Study, terms: Mapping[str, Any]) -> None:
    """Writes down what trials of a study have in common, or checks that it is still the same.

    Raises:
        InvalidInputError: the study was made on other terms.
    """
    known = study.user_attrs.get("terms")
    if known is None:
        study.set_user_attr("terms", dict(terms))
        return
    for name, value in terms.items():
        if known.get(name) != value:
            expected = f"another name, since this study was made with {name} {known.get(name)}"
            raise InvalidInputError("--study", expected, f"{name} {value}")


def give_back(study: optuna.Study, folder: Path) -> int:
    """Ends the trials that no process works on any more, and puts them first in the queue.

    Only whoever holds the study's folder may call this. Returns how many there were.
    """
    _mend(folder)
    left = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in left:
        study.tell(trial.number, state=TrialState.FAIL)
        attempt = int(trial.user_attrs.get("attempt", 1))
        if trial.params and "reason" not in trial.user_attrs and attempt < ATTEMPTS:
            study.enqueue_trial(trial.params, user_attrs={"attempt": attempt + 1})
    return len(left)


def ended(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count: complete, pruned, or failed for a reason that is written down."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        or (trial.state is TrialState.FAIL and "reason" in trial.user_attrs)
    ]


def coarse(values: Sequence[float]) -> tuple[float, ...]:
    """Objectives to the digits that mean something: of a latency the third is noise."""
    size, latency, loss = values
    return size, float(f"{latency:.2g}"), round(loss, 3)


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `one` is nowhere worse and somewhere better, all being minimised."""
    pairs = list(zip(coarse(one), coarse(other), strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def on_front(values: Sequence[float], others: Iterable[Sequence[float]]) -> bool:
    """Whether none of the others dominates `values`."""
    return not any(dominates(other, values) for other in others)


def complete(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that have all objectives."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
