"""Trials of the ladder: converts rungs to and from Optuna's parameters, recipes and results."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import onnx
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import BaseTrial, FrozenTrial, TrialState

from slimq.core.errors import InvalidInputError
from slimq.core.locks import hold_lock
from slimq.core.manifest import SearchRecord
from slimq.core.repository import Repository
from slimq.networks.specification import QNetworkSpec
from slimq_compression.graph.layers import layer_roles as graph_roles
from slimq_compression.network.layers import layer_roles as network_roles
from slimq_compression.network.shapes import Shape, image_body, shape_student
from slimq_compression.recipe import Recipe
from slimq_compression.search import ladder
from slimq_compression.search.ladder import Rung, Technique, Terms, Tried
from slimq_compression.search.proposals import write_recipe
from slimq_compression.search.study import MAX_ATTEMPTS
from slimq_compression.search.training import FULL, Kind
from slimq_compression.source import Source

LOCK = "ladder.lock"
POLL_SECONDS = 0.5
FIRST_SECONDS = 60.0
"""Minimum seconds for the first rung, even if starting the worker used up the time."""
HEAD_BITS = 8
"""Bits of a student's head, whose few weights decide between close actions."""
FIRST_BITS = 6
"""Minimum bits of the first convolution, which has few weights that affect everything."""
ALL_BUT_HEAD = ("convolutions", "dense")
"""Roles of the policy's own layers that are encoded, unless only inner layers are."""
SMALLEST = 1e-7
DISTRIBUTIONS: Mapping[str, BaseDistribution] = {
    "technique": optuna.distributions.CategoricalDistribution(
        (*ladder.OWN, *(shape.value for shape in Shape))
    ),
    "share": optuna.distributions.FloatDistribution(SMALLEST, 1.0, log=True),
    "form": optuna.distributions.CategoricalDistribution(("fp32", "int8", "codes")),
    "bits": optuna.distributions.IntDistribution(0, 8),
    "seed": optuna.distributions.IntDistribution(0, 2**31 - 1),
    "effort": optuna.distributions.FloatDistribution(0.0, ladder.MAX_EFFORT),
}


@dataclass(frozen=True)
class RungProposal:
    """A rung for one policy.

    Attributes:
        rung: the rung.
        kind: kind of the policy's students.
        inner: names of the policy's layers between the first and the head.
    """

    rung: Rung
    kind: Kind
    inner: tuple[str, ...]

    @property
    def trains(self) -> bool:
        """Whether it is trained."""
        return self.rung.trains

    def describe(self) -> str:
        """Short description."""
        return self.rung.describe()

    def recipe(
        self,
        *,
        name: str,
        accept: Mapping[str, Any],
        trained: bool = True,
        search: SearchRecord | None = None,
    ) -> tuple[Recipe, str]:
        """Its recipe; see `Proposal`."""
        rung = self.rung
        network: list[Mapping[str, Any]] = []
        graph: list[Mapping[str, Any]] = []
        if rung.trains:
            shape = {"share": rung.share, "shape": rung.technique}
            network.append({"pass": "student", **shape})
            if trained:
                training = FULL[self.kind, "student"].scaled(rung.effort)
                network.append(training.steps())
        if rung.form == "int8":
            graph.append({"pass": "quantize_int8", "portable": True, "layers": self._encoded})
        elif rung.form == "codes":
            network.append(self._codes)
            graph.append({"pass": "store_weights", "zstd_aware": True})
        head = {"name": name, "description": f"Shrunk: {rung.describe()}.", "seed": rung.seed}
        store = {"compression": "zstd", "compact": True}
        return write_recipe(head, search, network=network, graph=graph, accept=accept, store=store)

    @property
    def _encoded(self) -> tuple[str, ...]:
        """The layers to encode; never the small head, which decides between close actions."""
        return self.inner if self.rung.technique == "inner" else ALL_BUT_HEAD

    @property
    def _codes(self) -> Mapping[str, Any]:
        """The step that rounds weights to levels."""
        step = {"pass": "quantize_weights", "form": "linear", "rounding": "compensated"}
        bits: dict[str, int] = {"default": self.rung.bits}
        if self.kind == "conv":
            bits["first"] = max(self.rung.bits, FIRST_BITS)
        if self.rung.trains:  # the head of a small student is a large part of it
            return {**step, "bits": {"head": HEAD_BITS, **bits}}
        return {**step, "bits": bits, "layers": self._encoded}


def name_of(rung: Rung) -> str:
    """The name of the variant that a rung makes, such as `fitted-64-6bit`."""
    form = f"{rung.bits}bit" if rung.form == "codes" else rung.form
    if not rung.trains:
        return f"{rung.technique}-{form}"
    return f"{rung.technique}-{1 / rung.share:.0f}-{form}"


class LadderSpace:
    """Chooses trials by the ladder."""

    drops_early = False

    def __init__(self, source: Source, folder: Path, terms: Terms) -> None:
        """Stores the policy's kind, the study's folder, and the resources of the run."""
        self.run, self.folder = terms, folder
        self.kind, self.inner = kind_of(source), inner_layers(source)

    @property
    def digest(self) -> str:
        """Digest of everything that gives a rung its meaning."""
        terms = repr((FULL, HEAD_BITS, FIRST_BITS))
        return hashlib.sha256(terms.encode()).hexdigest()[:16]

    @property
    def terms(self) -> dict[str, Any]:
        """The shapes of students, for the study to record."""
        return {"techniques": list(self.run.techniques)}

    def prepare(self, study: optuna.Study, repository: Repository) -> None:
        """Does nothing: the ladder has no initial trials."""

    def suggest(self, trial: BaseTrial) -> RungProposal:
        """The proposal for a trial's rung."""
        return RungProposal(rung_of(trial.params), self.kind, self.inner)

    def next_trial(self, study: optuna.Study, seconds: float) -> optuna.Trial | None:
        """The next rung; waits if it depends on a rung that another worker is still trying."""
        if not tried(study):
            seconds = max(seconds, FIRST_SECONDS)
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                with hold_lock(self.folder / LOCK, left):
                    trial = self._next(study, left)
            except TimeoutError:
                return None
            if trial is not None or not any(one.passed is None for one in tried(study)):
                return trial
            time.sleep(POLL_SECONDS)
        return None

    def _next(self, study: optuna.Study, seconds: float) -> optuna.Trial | None:
        """The next rung that is expected to fit the time; the caller holds the lock."""
        if any(trial.state is TrialState.WAITING for trial in study.get_trials(deepcopy=False)):
            return study.ask(dict(DISTRIBUTIONS))
        known = tried(study)
        for rung in ladder.next_rungs(known, self.run):
            if ladder.expected_seconds(rung, known) <= seconds:
                study.enqueue_trial(asdict(rung))
                return study.ask(dict(DISTRIBUTIONS))
        return None


def rung_of(params: Mapping[str, Any]) -> Rung:
    """The rung of Optuna's parameters."""
    return Rung(**{known.name: params[known.name] for known in fields(Rung)})


def tried(study: optuna.Study) -> list[Tried]:
    """The rungs of a study's trials, except for interrupted ones, which will be repeated."""
    return [
        _tried(trial)
        for trial in study.get_trials(deepcopy=False)
        if len(trial.params) == len(DISTRIBUTIONS) and not _is_interrupted(trial)
    ]


def _is_interrupted(trial: FrozenTrial) -> bool:
    """Whether a trial was interrupted and will be repeated."""
    attempt = int(trial.user_attrs.get("attempt", 1))
    ended = trial.state is TrialState.FAIL and "reason" not in trial.user_attrs
    return ended and attempt < MAX_ATTEMPTS


def _tried(trial: FrozenTrial) -> Tried:
    rung, known = rung_of(trial.params), trial.user_attrs
    if trial.state in (TrialState.RUNNING, TrialState.WAITING):
        return Tried(rung, None)
    passed = trial.state is TrialState.COMPLETE and bool(known.get("passed"))
    possible = trial.state is not TrialState.FAIL
    seconds = known.get("training", known.get("seconds", 0.0))
    return Tried(rung, passed, float(seconds), possible)


def kind_of(source: Source) -> Kind:
    """The kind of a policy's students."""
    return "mlp" if image_body(source.spec) is None else "conv"


def inner_layers(source: Source) -> tuple[str, ...]:
    """Names of a policy's layers between the first and the head."""
    if source.graph is None:
        roles = network_roles(source.require_network("shrink"))
    else:
        roles = graph_roles(onnx.load_model_from_string(source.graph))
    return tuple(name for name, own in roles.items() if {"first", "head"}.isdisjoint(own))


def techniques_for(source: Source) -> tuple[Technique, ...]:
    """The shapes of students that fit a policy; of shapes that give the same network, the first."""
    largest = int(ladder.LARGEST_SHARE * source.parameters)
    shapes: list[tuple[Technique, QNetworkSpec]] = []
    for shape in Shape:
        try:
            made = shape_student(source.spec, shape, largest, "student.share")
        except InvalidInputError:
            continue
        if all(made != other for _, other in shapes):
            shapes.append((shape.value, made))
    return tuple(name for name, _ in shapes)
