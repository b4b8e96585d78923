"""Where a search starts, by the policies that are shipped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FixedTrial, TrialState

from slimq.core.repository import Repository
from slimq_compression.recipe import Recipe, load_recipe
from slimq_compression.search.space import Offer, background_of, make_recipe, suggest
from slimq_compression.search.start import enqueue_published
from slimq_compression.source import load_source

ROOT = Path(__file__).parents[3]


def enqueue(policy: str, study: optuna.Study, policies: Path = ROOT / "policies") -> list[str]:
    repository = Repository(policies)
    source = load_source(repository, policy)
    background = background_of(source.calibration)
    return enqueue_published(
        study, repository, policy, source.full.spec, Offer.current(), background
    )


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study()


def waiting(study: optuna.Study) -> dict[str, dict[str, Any]]:
    """Parameters by the variant that they are of."""
    trials = study.get_trials(states=(TrialState.WAITING,))
    return {t.user_attrs["start"]: t.system_attrs["fixed_params"] for t in trials}


def test_what_was_published_is_tried_first_and_once(study: optuna.Study) -> None:
    assert enqueue("cartpole", study) == ["micro"]
    assert waiting(study) == {
        "micro": {"structure": "student", "weights": "fp32", "hidden.1": 8, "layers": 1}
    }
    enqueue("cartpole", study)
    assert len(study.trials) == 1


def test_the_choices_make_the_recipe_of_the_variant_again(study: optuna.Study) -> None:
    """All but its training, and what the space has no choice about."""
    enqueue("pong", study)
    source = load_source(Repository(ROOT / "policies"), "pong")
    chosen = waiting(study)["tiny"]
    offer, gate = Offer.current(), {"margin": 0.02}
    background = background_of(source.calibration)
    candidate = suggest(FixedTrial(chosen), source.full.spec, offer, background)
    found, _ = make_recipe(candidate, offer, name="tiny", seed=1, effort=1.0, accept=gate)
    shipped = load_recipe(ROOT / "recipes" / "pong" / "tiny.toml")
    made, given = found.network[0].params, shipped.network[0].params
    own = {"initial": given.initial, "disturb": given.disturb}
    assert made.model_copy(update=own) == given
    assert len(levels(found)) == 3
    assert levels(found) == levels(shipped)


def levels(recipe: Recipe) -> dict[Any, Any]:
    """Parameters of rounding, by the layers that they are for."""
    steps = [step for step in recipe.network if step.name == "quantize_weights"]
    uncorrected = {"correct_bias": False}
    return {step.params.layers: step.params.model_copy(update=uncorrected) for step in steps}


def test_students_that_the_space_does_not_hold_are_left_out(study: optuna.Study) -> None:
    """Such as those of named architectures, and networks that are no students."""
    names = enqueue("pong", study)
    assert {"tiny", "fastest"} <= set(names)
    assert not {
        "mobilenet-undisturbed",
        "shufflenet-undisturbed",
        "fp32",
        "pruned-int8",
        "tucker",
    } & set(names)


@pytest.mark.parametrize(
    "change", [{"hidden": [2]}, {"hidden": [8, 8, 8]}, {"hidden": None}, {"width": 0.5}]
)
def test_a_value_out_of_range_is_left_out(
    study: optuna.Study, tmp_path: Path, change: dict[str, Any]
) -> None:
    shutil.copytree(ROOT / "policies" / "cartpole", tmp_path / "cartpole")
    path = tmp_path / "cartpole" / "variants" / "micro" / "variant.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["recipe"]["steps"][0]["parameters"] |= change
    path.write_text(json.dumps(manifest), encoding="utf-8")
    assert enqueue("cartpole", study, tmp_path) == []


def test_a_variant_that_cannot_be_read_is_left_out(study: optuna.Study, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "policies" / "cartpole", tmp_path / "cartpole")
    (tmp_path / "cartpole" / "variants" / "int8" / "variant.json").write_text("{")
    assert enqueue("cartpole", study, tmp_path) == ["micro"]
