from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from condition_reports import publish_report
from slimq.core.errors import RepositoryError
from slimq.core.model_file.described import DescribedModel, read_described
from slimq.core.model_file.description import ModelDescription
from slimq.core.repository import Repository


@pytest.fixture
def described(tiny_repository: Path) -> DescribedModel:
    return read_described(Repository(tiny_repository), "tiny_frames", "other")


def test_every_value_is_json_of_what_the_manifests_say(
    described: DescribedModel, tiny_repository: Path
) -> None:
    repository = Repository(tiny_repository)
    policy, variant = repository.policy("tiny_frames"), repository.variant("tiny_frames", "other")
    found = {key: json.loads(value) for key, value in described.description.properties().items()}
    assert found["slimq.schema_version"] == 1
    assert found["slimq.observation"] == policy.observation.model_dump(mode="json")
    assert found["slimq.actions"]["names"] == policy.actions
    assert found["slimq.recipe"] == variant.recipe.model_dump(mode="json")
    assert found["slimq.variant"]["name"] == "other"
    assert found["slimq.policy"]["environment"]["id"] == "ALE/Pong-v5"
    assert found["slimq.preprocessing"]["frame"] == {"dtype": "uint8", "shape": [84, 84]}
    assert found["slimq.preprocessing"]["stack"] == {"axis": 0, "count": 4, "padding": "zero"}
    assert found["slimq.preprocessing"]["atari"]["frame_skip"] == 4
    assert found["slimq.hashes"]["stored"] == variant.model.sha256
    assert found["slimq.evidence"]["evaluated"] is False
    assert found["slimq.evidence"]["text"].startswith("No evidence: this variant has not been")


def test_evidence_has_the_verdict_and_its_conditions(tiny_repository: Path) -> None:
    publish_report(tiny_repository, "fp32", {})
    publish_report(tiny_repository, "other", {"noise": 60.0})
    evidence = read_described(Repository(tiny_repository), "tiny", "other").description.evidence
    assert (evidence.robust, evidence.fails_under) == (False, ["noise=0.01"])
    assert evidence.conditions == [
        "noise=0.01",
        "bias=0.01",
        "held=0.1",
        "sticky=0.25",
        "delayed=1",
    ]
    assert evidence.mean_return == 115
    assert evidence.episodes == 20
    assert evidence.interval is not None


def test_what_a_newer_slimq_adds_is_ignored(described: DescribedModel) -> None:
    properties = described.description.properties()
    actions = json.loads(properties["slimq.actions"]) | {"colour": "red"}
    newer = properties | {"slimq.colour": '"red"', "slimq.actions": json.dumps(actions)}
    assert ModelDescription.parse(newer, "model.onnx") == described.description


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"slimq.schema_version": "2"}, r"slimq\.schema_version: this slimq reads 1, found 2"),
        ({"slimq.actions": "{"}, r"a property slimq\.\* is not JSON"),
        ({"slimq.actions": "{}"}, r"slimq\.actions\.names: Field required"),
        (
            {"slimq.observation": '{"dtype": "float64", "shape": [4]}'},
            r"slimq\.observation\.dtype: ",
        ),
    ],
)
def test_what_cannot_be_understood_is_refused_by_name(
    described: DescribedModel, change: dict[str, Any], problem: str
) -> None:
    properties = described.description.properties() | change
    with pytest.raises(RepositoryError, match=f"model.onnx: {problem}"):
        ModelDescription.parse(properties, "model.onnx")
