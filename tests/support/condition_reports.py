"""Published reports of play under conditions, with returns of one's choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from reports import make_report_of
from slimq.core.conditions.catalogue import Condition, standard_conditions
from slimq.core.observation import ObservationSpec
from slimq.core.publish import Publisher
from slimq.core.report import ConditionReport, Interval
from slimq.core.repository import Repository


def make_conditions(
    observation: ObservationSpec,
    returns: Sequence[float],
    lost: Mapping[str, float],
    further: Sequence[Condition] = (),
) -> tuple[ConditionReport, ...]:
    """Play under the standard conditions and further ones.

    `lost` is what is lost of each return, by the name of a condition; 0 for those not in it.

    The intervals are the mean ± 1.
    """
    made = []
    for condition in (*further, *standard_conditions(observation)):
        found = [value - lost.get(condition.name, 0.0) for value in returns]
        mean = sum(found) / len(found)
        made.append(
            ConditionReport(
                condition=condition,
                returns=found,
                distinct_trajectories=1,
                mean=mean,
                interval=Interval(low=mean - 1, high=mean + 1),
            )
        )
    return tuple(made)


def publish_report(
    root: Path,
    variant: str,
    lost: Mapping[str, float] | None = None,
    *,
    policy: str = "tiny",
    returns: Sequence[float] = (100.0, 120.0, 110.0, 130.0) * 5,
    further: Sequence[Condition] = (),
    **changes: object,
) -> None:
    """Publishes a report of a variant of a repository.

    Args:
        root: the repository.
        variant: the variant.
        lost: as for `make_conditions`; None for a report without conditions.
        policy: the policy.
        returns: undisturbed.
        further: conditions beside the standard ones.
        changes: further fields of the report.
    """
    repository = Repository(root)
    report = make_report_of(repository.variant(policy, variant), returns)
    if lost is not None:
        observation = repository.policy(policy).observation
        changes = {"conditions": make_conditions(observation, returns, lost, further), **changes}
    Publisher(repository).attach_report(policy, variant, report.model_copy(update=changes))
