from __future__ import annotations

import pytest
from pydantic import ValidationError

from slimq.core.environment import AtariPreprocessing, EnvironmentSpec
from slimq.core.report import EvaluationProtocol, EvaluationReport, Interval


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


@pytest.mark.parametrize("field", ["seeds", "returns", "lengths", "trajectories"])
def test_a_report_without_one_entry_per_episode_is_refused_by_name(field):
    with pytest.raises(ValidationError, match=f"{field}: expected 2 entries"):
        report(**{field: []})


def test_unknown_keys_are_refused():
    with pytest.raises(ValidationError, match="surprise"):
        EvaluationReport.model_validate(report().model_dump() | {"surprise": 1})
