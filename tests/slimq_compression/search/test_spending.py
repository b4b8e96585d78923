"""What the time of a search went to."""

from __future__ import annotations

import optuna
from optuna.trial import TrialState, create_trial

from slimq.core.conditions.catalogue import Condition
from slimq_compression.conditions import ConditionReference
from slimq_compression.search.spending import describe_spending, spending
from slimq_compression.search.stages import Reference


def test_the_time_is_divided_by_purpose_and_copies_are_not_counted_twice() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    late = Condition(name="delayed", strength=1.0)
    known = ConditionReference(condition=late, returns=(1.0,), loss=0.0, seconds=2.0)
    reference = Reference(
        bytes=1, latency_us=1.0, screening=(), gate=(), conditions=(known,), seconds=4.0
    )
    study.set_user_attr("reference", reference.model_dump(mode="json"))
    spent = {"seconds": 60.0, "training_spent": 30.0, "playing": 6.0, "disturbed": {"delayed=1": 8}}
    for attributes in (spent, {**spent, "same_as": 0}, {"seconds": 10.0, "reason": "too large"}):
        state = TrialState.PRUNED if "reason" in attributes else TrialState.COMPLETE
        value = None if "reason" in attributes else 0.0
        study.add_trial(create_trial(state=state, value=value, user_attrs=attributes))
    found = spending(study)
    assert found == {
        "training": 30.0,
        "undisturbed play": 10.0,
        "under delayed=1": 10.0,
        "the rest": 26.0,
    }
    assert describe_spending(found) == (
        "1.3 min of the workers: training 39%, the rest 34%, undisturbed play 13%, "
        "under delayed=1 13%"
    )
