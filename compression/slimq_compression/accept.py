"""Accept gate: a staged variant is published only if it meets its recipe's criteria.

Episodes are played on selection seeds, never on held-out ones, paired with the baseline variant:
same episode seeds, same exploration. The baseline itself is compared with the torch network that it
was exported from. Under the standard conditions, both meet the same disturbances; conditions are
played cheapest first, and the first failure ends the play. Whatever the criteria, the model is run
once on the states on which agreement is measured, so that no model with non-finite Q-values is
published.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from slimq.core.conditions.catalogue import Condition
from slimq.core.errors import AcceptGateError, ConfigError, NotFoundError, RepositoryError
from slimq.core.manifest import random_mean, require_environment
from slimq.core.qfunction import QFunction
from slimq.core.repository import Repository
from slimq.core.seeds import SELECTION
from slimq.evaluation.conditions import Trial
from slimq.evaluation.fidelity import measure_fidelity, q_values_of
from slimq_compression.conditions import (
    ConditionReference,
    play_reference,
    play_under,
    standard_trials,
)
from slimq_compression.context import Progress, silent
from slimq_compression.pipeline import Staged
from slimq_compression.recipe import Accept, Recipe, applied
from slimq_compression.selection import (
    load_candidate,
    play_returns,
    scale_over_random,
    score_returns,
)
from slimq_compression.shares import is_share, resolve
from slimq_compression.source import Source

AT_LEAST, AT_MOST = "at least", "at most"
SEED_OFFSET = 100_000
"""First selection seed of the gate; lower ones select the best network during training."""


@dataclass(frozen=True)
class Criterion:
    """A measured value and its limit.

    Attributes:
        name: a key of `[accept]`.
        value: the measured value.
        relation: `at least` or `at most`.
        limit: the required limit.
        basis: what the limit was derived from, such as `1/8 of the 4560 bytes of fp32`; empty if it
            is the recipe's.
    """

    name: str
    value: float
    relation: str
    limit: float
    basis: str = ""

    @property
    def holds(self) -> bool:
        """Whether the value meets the limit; False if it is NaN."""
        return self.value >= self.limit if self.relation == AT_LEAST else self.value <= self.limit


@dataclass(frozen=True)
class Skipped:
    """A condition that decides nothing, because the baseline itself loses too much under it.

    Attributes:
        condition: the disturbance and its strength.
        loss: the baseline's own loss, as a share of full − random.
    """

    condition: Condition
    loss: float


@dataclass(frozen=True)
class Verdict:
    """Result of the gate.

    Attributes:
        criteria: the criteria that were checked; `robust` once for each condition that decides.
        returns: the variant's undisturbed returns, ordered by seed; empty if no episodes were
            played.
        reference_returns: the baseline's returns on the same seeds.
        skipped: conditions that were played and decide nothing.
    """

    criteria: tuple[Criterion, ...]
    returns: tuple[float, ...] = ()
    reference_returns: tuple[float, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether all criteria hold."""
        return all(criterion.holds for criterion in self.criteria)

    def require(self, variant: str) -> None:
        """Raises AcceptGateError if any criterion does not hold."""
        failed = [c for c in self.criteria if not c.holds]
        if failed:
            failures = [(c.name, c.value, c.relation, c.limit, c.basis) for c in failed]
            raise AcceptGateError(variant, failures)


class AcceptGate:
    """Judges staged variants of one policy; the baseline's episodes are played only once."""

    def __init__(self, source: Source, repository: Repository, progress: Progress = silent) -> None:
        self.source, self.repository, self.progress = source, repository, progress
        self.baseline = source.manifest.baseline_variant
        self._staged: Staged | None = None
        self._reference_returns: dict[int, list[float]] = {}
        self._conditions: dict[tuple[Condition, int], ConditionReference] = {}

    def needs_baseline(self, recipe: Recipe) -> bool:
        """Whether the recipe's gate compares with the baseline variant.

        Raises:
            ConfigError: the recipe makes the baseline itself and limits it to a share of its own
                bytes.
        """
        accept = applied(recipe.accept, self.source.manifest)
        if recipe.name != self.baseline:
            return accept.compares
        if accept.max_bytes is not None and is_share(accept.max_bytes):
            problem = f"expected an integer, since shares are of {self.baseline!r} itself"
            problem += f", received {accept.max_bytes!r}"
            raise ConfigError(recipe.source, "accept.max_bytes", problem)
        return False

    def baseline_problem(self) -> str | None:
        """The reason why there is no baseline variant to compare with; None if there is one."""
        if self._staged is not None:
            return None
        try:
            made, _ = self.repository.read_model(self.source.manifest.name, self.baseline)
        except NotFoundError:
            return "is not published"
        except RepositoryError:
            return "is damaged"
        own = made.parent == self.source.checkpoint_sha256
        return None if own else "was made from another checkpoint"

    def require_baseline(self, recipe: Recipe) -> None:
        """Checks, before any work is done, that the baseline variant is available if needed.

        Raises:
            ConfigError: the recipe's gate needs the baseline variant, which is not published,
                damaged, or made from another checkpoint.
        """
        problem = self.baseline_problem() if self.needs_baseline(recipe) else None
        if problem is not None:
            policy = self.source.manifest.name
            against = f"the gate compares with the variant {self.baseline!r}, which {problem}"
            remedy = f"first run slimq compress {policy} {self.baseline}"
            raise ConfigError(recipe.source, "accept", f"{against}; {remedy}")

    def stage_baseline(self, staged: Staged) -> None:
        """Makes a new baseline the one that later variants are compared with."""
        self._staged = staged
        self._reference_returns.clear()
        self._conditions.clear()

    def judge(self, staged: Staged, accept: Accept) -> Verdict:
        """Evaluates the criteria, cheapest first; plays episodes only if the others hold.

        Raises:
            RepositoryError: the staged model does not load, has the wrong signature, or returns
                non-finite Q-values.
            CheckFailedError: the baseline is no better than random play, so there is no scale.
        """
        accept = applied(accept, self.source.manifest)
        name = staged.manifest.name
        policy = self._policy(staged.model, name)
        criteria = []
        if accept.max_bytes is not None:
            criteria.append(self._size(len(staged.stored), accept.max_bytes))
        agreement = self._agreement(policy)
        if accept.agreement is not None:
            criteria.append(Criterion("agreement", agreement, AT_LEAST, accept.agreement))
        if not accept.plays or not all(criterion.holds for criterion in criteria):
            return Verdict(tuple(criteria))
        seeds = SELECTION.seeds(accept.episodes, offset=SEED_OFFSET)
        reference = self._reference(name, seeds)
        returns = self._play(policy, seeds, f"accept {name}")
        criteria += self._compare(returns, reference, accept)
        skipped: list[Skipped] = []
        if accept.robust and all(criterion.holds for criterion in criteria):
            conditions, skipped = self._judge_conditions(policy, name, accept)
            criteria += conditions
        return Verdict(tuple(criteria), tuple(returns), tuple(reference), tuple(skipped))

    def _size(self, size: int, limit: float | str) -> Criterion:
        if not is_share(limit):
            return Criterion("max_bytes", float(size), AT_MOST, float(limit))
        if self._staged is not None:
            full = len(self._staged.stored)
        else:
            full = self.repository.variant(self.source.manifest.name, self.baseline).model.bytes
        basis = f"{limit} of the {full} bytes of {self.baseline}"
        return Criterion("max_bytes", float(size), AT_MOST, float(resolve(limit, full)), basis)

    def _compare(
        self, returns: Sequence[float], reference: Sequence[float], accept: Accept
    ) -> Iterable[Criterion]:
        random = random_mean(self.source.manifest)
        score = score_returns(returns, reference, random, "accept")
        if accept.return_ratio is not None:
            yield Criterion("return_ratio", score.mean, AT_LEAST, accept.return_ratio)
        if accept.margin is not None:
            yield Criterion("margin", score.low, AT_LEAST, -accept.margin)

    def _judge_conditions(
        self, policy: QFunction, name: str, accept: Accept
    ) -> tuple[list[Criterion], list[Skipped]]:
        """Plays the standard conditions, cheapest first, up to the first failure."""
        seeds = SELECTION.seeds(accept.condition_episodes or accept.episodes, offset=SEED_OFFSET)
        undisturbed = self._reference(name, seeds)
        scale = scale_over_random(undisturbed, random_mean(self.source.manifest), "accept")
        criteria: list[Criterion] = []
        skipped: list[Skipped] = []
        for trial in sorted(self._trials, key=lambda trial: self._cost(trial, len(seeds))):
            full = self._disturbed_reference(name, trial, seeds, undisturbed, scale)
            if not full.decides:
                skipped.append(Skipped(trial.condition, full.loss))
                continue
            returns = play_under(trial, policy, seeds, f"accept {name}", self.progress)
            difference = full.compare(returns, scale, len(self._trials))
            under = f"under {trial.condition.label}"
            limit = -difference.margin
            criteria.append(Criterion("robust", difference.low, AT_LEAST, limit, under))
            if not criteria[-1].holds:
                break
        return criteria, skipped

    @cached_property
    def _trials(self) -> tuple[Trial, ...]:
        return standard_trials(self.repository, self.source)

    def _cost(self, trial: Trial, episodes: int) -> float:
        """Seconds that the baseline's episodes took; infinite if it has not played them yet."""
        known = self._conditions.get((trial.condition, episodes))
        return math.inf if known is None else known.seconds

    def _disturbed_reference(
        self,
        name: str,
        trial: Trial,
        seeds: Sequence[int],
        undisturbed: Sequence[float],
        scale: float,
    ) -> ConditionReference:
        if name == self.baseline:
            label = "accept: full policy"
            expert = self.source.expert
            return play_reference(trial, expert, seeds, undisturbed, scale, label, self.progress)
        key = (trial.condition, len(seeds))
        if key not in self._conditions:
            label, full = f"accept: {self.baseline}", self._baseline_policy()
            self._conditions[key] = play_reference(
                trial, full, seeds, undisturbed, scale, label, self.progress
            )
        return self._conditions[key]

    def _agreement(self, policy: QFunction) -> float:
        states = self.source.judged.observations(self.source.manifest.observation)
        q_values = q_values_of(policy, states)
        return measure_fidelity(q_values, self.source.judged.q_values).agreement

    def _reference(self, name: str, seeds: Sequence[int]) -> list[float]:
        if name == self.baseline:
            return self._play(self.source.expert, seeds, "accept: full policy")
        if len(seeds) not in self._reference_returns:
            policy, label = self._baseline_policy(), f"accept: {self.baseline}"
            self._reference_returns[len(seeds)] = self._play(policy, seeds, label)
        return self._reference_returns[len(seeds)]

    def _baseline_policy(self) -> QFunction:
        if self._staged is not None:
            return self._policy(self._staged.model, self.baseline)
        _, model = self.repository.read_model(self.source.manifest.name, self.baseline)
        return self._policy(model, self.baseline)

    def _policy(self, model: bytes, name: str) -> QFunction:
        return load_candidate(self.source.manifest, model, name)

    def _play(self, policy: QFunction, seeds: Sequence[int], label: str) -> list[float]:
        environment = require_environment(self.source.manifest, "the accept gate")
        return play_returns(environment, policy, seeds, label, self.progress)
