"""Plays variants under conditions, which `slimq.core.conditions.catalogue` lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slimq.core.conditions.catalogue import CONDITIONS, Condition, kind_of, select_conditions
from slimq.core.conditions.passage import Situation, measure_spread
from slimq.core.errors import CheckFailedError
from slimq.core.manifest import PolicyManifest, require_environment
from slimq.core.report import ConditionReport, EvaluationProtocol, EvaluationReport
from slimq.core.repository import Repository
from slimq.core.schema import MINOR
from slimq.core.statistics import mean_interval
from slimq.environments.conditions import load_condition

if TYPE_CHECKING:
    from slimq.environments.rollout import Episode


@dataclass(frozen=True)
class Trial:
    """A condition, ready for one policy's variants to play under.

    Attributes:
        situation: the condition in the policy's environment.
        code_sha256: SHA-256 of the file of a custom condition; None for built-in ones.
    """

    situation: Situation
    code_sha256: str | None

    @property
    def condition(self) -> Condition:
        """The disturbance and its strength."""
        return self.situation.condition

    @property
    def identity(self) -> dict[str, object]:
        """Everything that an episode depends on besides the environment and the model."""
        return {
            "condition": self.condition.model_dump(mode="json"),
            "spread": self.situation.spread,
            "code": self.code_sha256,
        }

    def is_current(self, report: ConditionReport, episodes: int) -> bool:
        """Whether a report is of this trial and has at least `episodes`."""
        spread = None if self.situation.spread is None else list(self.situation.spread)
        return (
            report.condition == self.condition
            and report.spread == spread
            and report.code_sha256 == self.code_sha256
            and len(report.returns) >= episodes
        )

    def summarize(
        self, episodes: Sequence[Episode], protocol: EvaluationProtocol
    ) -> ConditionReport:
        """Builds the report from episodes in the order of the protocol's seeds."""
        returns = [episode.return_ for episode in episodes]
        spread = self.situation.spread
        return ConditionReport(
            condition=self.condition,
            spread=None if spread is None else list(spread),
            code_sha256=self.code_sha256,
            returns=returns,
            distinct_trajectories=len({episode.trajectory for episode in episodes}),
            mean=sum(returns) / len(returns),
            interval=mean_interval(
                returns, resamples=protocol.resamples, confidence=protocol.confidence
            ),
        )


def parse_conditions(text: str, manifest: PolicyManifest) -> tuple[Condition, ...]:
    """Reads comma-separated conditions, such as `standard,blur=1,my_conditions.py:fog=0.5`.

    Raises:
        InvalidInputError: the policy has no environment, or a condition is unknown, given twice, or
            not for these observations.
    """
    require_environment(manifest, "playing under conditions")
    return select_conditions((item.strip() for item in text.split(",")), manifest.observation)


def make_trials(
    repository: Repository, manifest: PolicyManifest, conditions: Sequence[Condition]
) -> tuple[Trial, ...]:
    """Prepares conditions for a policy.

    Raises:
        InvalidInputError: the policy has no environment, or a function cannot be loaded.
        EnvironmentFailure: the code of a condition raises an exception.
        RepositoryError: the policy's calibration set is invalid.
        CheckFailedError: there is none, although a condition's strength depends on it.
    """
    if not conditions:
        return ()
    environment = require_environment(manifest, "playing under conditions")
    measured = [c for c in conditions if c.name in CONDITIONS and c.row.measured]
    spread = policy_spread(repository, manifest) if measured else None
    trials = []
    for condition in conditions:
        custom = load_condition(condition)
        situation = Situation(
            condition,
            environment,
            manifest.observation,
            len(manifest.actions),
            spread if condition in measured else None,
            custom.channel if custom else None,
        )
        trials.append(Trial(situation, custom.code_sha256 if custom else None))
    return tuple(trials)


def policy_spread(repository: Repository, manifest: PolicyManifest) -> tuple[float, ...] | None:
    """The spread of each element in the policy's calibration states; None for frames.

    Raises:
        RepositoryError: the calibration set is invalid.
        CheckFailedError: there is none.
    """
    if kind_of(manifest.observation) == "frames":
        return None
    calibration = repository.calibration(manifest)
    if calibration is None:
        problem = "has no calibration set, from which to measure how far its observations spread"
        raise CheckFailedError(f"{manifest.name} {problem}")
    measured = measure_spread(calibration.observations(manifest.observation), manifest.observation)
    return None if measured is None else tuple(measured)


def join_conditions(
    report: EvaluationReport, before: EvaluationReport | None, now: EvaluationReport
) -> EvaluationReport:
    """Adds the conditions that another evaluation has published since this one began.

    Args:
        report: the report to publish.
        before: the report that was published when this evaluation began.
        now: the report published now, of the same model and protocol.
    """
    known = () if before is None else before.conditions
    found = {own.condition: own for own in report.conditions}
    for other in now.conditions:
        own = found.get(other.condition)
        if own is None or own in known:
            found[other.condition] = other
    return with_conditions(report, found.values())


def with_conditions(
    report: EvaluationReport, conditions: Iterable[ConditionReport]
) -> EvaluationReport:
    """The report with these conditions, in catalogue order; the same object if nothing changes."""
    names = list(CONDITIONS)

    def place(one: ConditionReport) -> tuple[int, str, float]:
        name = one.condition.name
        return names.index(name) if name in names else len(names), name, one.condition.strength

    ordered = tuple(sorted(conditions, key=place))
    if ordered == report.conditions:
        return report
    # A report written before there were conditions has an older minor version.
    return report.model_copy(update={"conditions": ordered, "schema_minor": MINOR})
