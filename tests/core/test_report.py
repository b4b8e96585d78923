from __future__ import annotations

import pytest
from pydantic import ValidationError

from slimq.core.conditions.catalogue import Condition
from slimq.core.environment import AtariPreprocessing, EnvironmentSpec
from slimq.core.report import (
    ConditionReport,
    EvaluationProtocol,
    EvaluationReport,
    Fidelity,
    Interval,
    Played,
)


def protocol(**changes):
    values = {
        "environment": EnvironmentSpec(
            id="ALE/Pong-v5", preprocessing=AtariPreprocessing(), max_episode_steps=27_000
        ),
        "epsilon": 0.01,
        "episodes": 2,
        "seed_range": "held-out",
        "first_seed": 3_000_000,
        "resamples": 10_000,
        "fidelity_states": 2_000,
        "fidelity_episodes": 8,
    }
    return EvaluationProtocol(**(values | changes))


def report(**changes):
    values = {
        "policy": "pong",
        "variant": "int8",
        "model_sha256": "a" * 64,
        "baseline_variant": "fp32",
        "baseline_sha256": "b" * 64,
        "protocol": protocol(),
        "seeds": [3_000_000, 3_000_001],
        "returns": [20.0, 21.0],
        "lengths": [1700, 1650],
        "trajectories": ["c" * 64, "d" * 64],
        "distinct_trajectories": 2,
        "mean": 20.5,
        "interval": Interval(low=20.0, high=21.0),
        "iqm": 20.5,
        "iqm_interval": Interval(low=20.0, high=21.0),
        "fidelity": None,
        "bytes": 100,
        "versions": {},
    }
    return EvaluationReport(**(values | changes))


def test_a_report_comes_back_from_json_unchanged():
    assert EvaluationReport.model_validate_json(report().model_dump_json()) == report()


@pytest.mark.parametrize(
    "changes",
    [{"mean": float("nan")}, {"returns": [20.0, float("inf")]}],
)
def test_a_number_that_is_not_finite_is_refused(changes):
    with pytest.raises(ValidationError, match="finite number"):
        report(**changes)


def test_an_end_of_an_interval_that_is_not_finite_is_refused():
    with pytest.raises(ValidationError, match="finite number"):
        Interval(low=float("-inf"), high=0.0)


def test_the_protocol_states_the_environment_and_its_seeds():
    plain = protocol().model_dump(mode="json")
    assert plain["environment"]["id"] == "ALE/Pong-v5"
    assert plain["environment"]["max_episode_steps"] == 27_000
    assert plain["environment"]["preprocessing"]["noop_max"] == 30
    assert plain["environment"]["preprocessing"]["sticky_actions"] == 0.0
    assert plain["environment"]["preprocessing"]["frame_skip"] == 4
    assert protocol().seeds == [3_000_000, 3_000_001]


def test_the_digest_changes_with_the_protocol():
    assert protocol().digest == protocol().digest
    assert protocol(epsilon=0.02).digest != protocol().digest


@pytest.mark.parametrize("field", ["seeds", "returns", "lengths"])
def test_a_report_without_one_entry_per_episode_is_refused_by_name(field):
    with pytest.raises(ValidationError, match=f"{field}: expected 2 entries"):
        report(**{field: []})


def test_more_trajectories_than_episodes_are_refused():
    with pytest.raises(ValidationError, match="trajectories: expected at most 2 entries"):
        report(trajectories=["c" * 64] * 3)


@pytest.mark.parametrize("listed", [None, ["c" * 64]])
def test_trajectories_may_be_left_out(listed):
    found = report(trajectories=listed).played
    assert found is not None
    assert found.distinct_trajectories == report().distinct_trajectories


def test_unknown_keys_are_refused():
    with pytest.raises(ValidationError, match="surprise"):
        EvaluationReport.model_validate(report().model_dump() | {"surprise": 1})


UNPLAYED = dict.fromkeys((*Played._fields, "trajectories")) | {
    "states_sha256": "e" * 64,
    "fidelity": Fidelity(
        states=3,
        agreement=1,
        near_ties=0,
        agreement_without_ties=1,
        regret=0,
        q_error_mean=0,
        q_error_max=0,
    ),
}


def test_without_an_environment_everything_that_comes_from_play_is_null():
    unplayed = report(**UNPLAYED)
    assert unplayed.played is None
    assert EvaluationReport.model_validate_json(unplayed.model_dump_json()) == unplayed
    played = report().played
    assert played is not None
    assert (played.mean, played.returns) == (20.5, [20.0, 21.0])


@pytest.mark.parametrize("name", Played._fields[1:])
def test_play_is_reported_as_a_whole(name):
    with pytest.raises(ValidationError, match=f"{name}: expected a value"):
        report(**{name: None})


@pytest.mark.parametrize("name", [*Played._fields[1:], "trajectories"])
def test_nothing_is_reported_of_play_where_there_was_none(name):
    with pytest.raises(ValidationError, match=f"{name}: expected null without a protocol"):
        report(**UNPLAYED | {name: getattr(report(), name)})


@pytest.mark.parametrize("name", ["fidelity", "states_sha256"])
def test_without_play_fidelity_refers_to_recorded_states(name):
    with pytest.raises(ValidationError, match="expected both, as nothing was played"):
        report(**UNPLAYED | {name: None})
    with pytest.raises(ValidationError, match="expected null, as states come from play"):
        report(states_sha256="e" * 64)


def test_a_report_from_before_recorded_states_is_still_valid():
    document = report().model_dump(mode="json")
    del document["states_sha256"]
    document["schema_minor"] = 0
    assert EvaluationReport.model_validate(document).played == report().played


def under(name, strength, **changes):
    values = {
        "condition": Condition(name=name, strength=strength),
        "returns": [1.0],
        "distinct_trajectories": 1,
        "mean": 1.0,
        "interval": Interval(low=1.0, high=1.0),
    }
    return ConditionReport(**(values | changes))


def test_play_under_conditions_is_found_by_name_and_strength():
    conditions = (under("noise", 4), under("noise", 8, spread=[0.1]), under("a.py:fog", 1))
    found = report(conditions=conditions)
    assert EvaluationReport.model_validate_json(found.model_dump_json()) == found
    assert found.under(Condition(name="noise", strength=8)) is conditions[1]
    assert found.under(Condition(name="noise", strength=5)) is None
    assert report().conditions == ()


def test_a_condition_that_this_version_does_not_know_is_read():
    conditions = (under("fog", 0.5),)
    assert report(conditions=conditions).conditions[0].condition.effect == "custom"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"conditions": [under("noise", 4), under("noise", 4.0)]}, "expected each condition once"),
        (UNPLAYED | {"conditions": [under("noise", 4)]}, "expected none without a protocol"),
    ],
)
def test_conditions_that_contradict_the_report_are_refused(changes, problem):
    with pytest.raises(ValidationError, match=f"conditions: {problem}"):
        report(**changes)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"returns": []}, "returns"),
        ({"code_sha256": "no digest"}, "code_sha256"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_condition_with_invalid_figures_is_refused(changes, problem):
    with pytest.raises(ValidationError, match=problem):
        under("noise", 4, **changes)


def test_a_report_from_before_conditions_is_still_valid():
    document = report().model_dump(mode="json")
    del document["conditions"]
    document["schema_minor"] = 1
    assert EvaluationReport.model_validate(document).conditions == ()
