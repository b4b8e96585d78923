"""In every configuration and recipe, text is no number, a number no text, and `true` neither."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from slimq.core.errors import ConfigError
from slimq.core.toml_files import TomlDocument
from slimq_compression.catalogue import CATALOGUE
from slimq_compression.recipe import load_recipe
from slimq_trainer.config import AlgorithmConfig, TrainConfig, load_config

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))
OPTIONAL = {
    "average_decay": 0.9,
    "gradient_clip": 1.0,
    "learning_rate_end": 1e-4,
    "augmentation": {"shift": 2, "contrast": 0.1, "brightness": 8.0, "noise": 4.0},
}
FREE = {"kwargs"}
"""Keys whose values may have any type."""


def leaves(values: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value that is no table or list, with its keys."""
    if isinstance(values, dict):
        for key, value in values.items():
            if key not in FREE:
                yield from leaves(value, (*place, key))
    elif isinstance(values, list):
        for index, value in enumerate(values):
            yield from leaves(value, (*place, index))
    else:
        yield place, values


LIMITS = {"max_bytes", "parameters"}
"""Keys that take a number or a share, which may be text."""


def others(value: Any) -> list[Any]:
    """The same value, or nearly so, as values of other types."""
    if isinstance(value, bool):
        return [int(value), str(value).lower()]
    if isinstance(value, int | float):
        return [str(value), f"{value:.0e}", True]
    return [5, True] if isinstance(value, str) else []


def without_nulls(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: without_nulls(value) for key, value in values.items() if value is not None}
    return [without_nulls(value) for value in values] if isinstance(values, list) else values


def changed(values: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    made = copy.deepcopy(values)
    inner: Any = made
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return made


def accepted(model: type[BaseModel], values: dict[str, Any]) -> list[str]:
    """The values of other types that a model takes all the same, or refuses under another name."""
    TomlDocument("file", "", values).validate(model)
    found = []
    for place, value in leaves(values):
        for other in others(value):
            if place[-1] in LIMITS and isinstance(value, str) and other is not True:
                continue
            try:
                TomlDocument("file", "", changed(values, place, other)).validate(model)
            except ConfigError as error:
                # The members of a union are named in between, and stand for its alternatives.
                if place[0] not in error.place.split("."):
                    found.append(f"{place} = {other!r} is refused as {error.place}")
            else:
                found.append(f"{place} = {other!r} is accepted")
    return found


@pytest.mark.parametrize("name", ["cartpole", "pong", "pong-mobilenet"])
def test_configurations(name: str) -> None:
    config = load_config(ROOT / f"configs/{name}.toml")
    values = without_nulls(config.model_dump(mode="json"))
    values["algorithm"] |= OPTIONAL
    values["run"] |= {"target_return": 20.0}
    assert set(values["algorithm"]) == set(AlgorithmConfig.model_fields)
    assert accepted(TrainConfig, values) == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recipes(path: Path) -> None:
    recipe = load_recipe(path)
    parts = [recipe.export, recipe.accept, recipe.store]
    for part in [*parts, *(step.params for step in (*recipe.network, *recipe.graph))]:
        assert accepted(type(part), without_nulls(part.model_dump(mode="json"))) == []


def test_the_recipes_together_have_a_step_of_every_pass() -> None:
    loaded = [load_recipe(path) for path in RECIPES]
    used = {step.name for recipe in loaded for step in (*recipe.network, *recipe.graph)}
    assert CATALOGUE.keys() - used <= {"finetune"}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('learning_rate = "1e-3"', "Input should be a valid number, received '1e-3' (at line 8)"),
        ("learning_rate = true", "Input should be a valid number, received True (at line 8)"),
        ('steps = "1000"', "Input should be a valid integer, received '1000' (at line 8)"),
        ("steps = true", "Input should be a valid integer, received True (at line 8)"),
        ("double = 1", "Input should be a valid boolean, received 1 (at line 8)"),
        ('double = "yes"', "Input should be a valid boolean, received 'yes' (at line 8)"),
        ("loss = 1", "Input should be 'squared' or 'huber', received 1 (at line 8)"),
        ("steps = 1000.5", "received 1000.5 (at line 8)"),
    ],
)
def test_the_line_names_the_key_and_the_value(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "p.toml"
    other = "" if line.startswith("steps") else "steps = 60_000"
    path.write_text(
        f"policy = 'p'\n\n[environment]\nid = 'CartPole-v1'\n\n[algorithm]\n{other}\n{line}\n"
    )
    with pytest.raises(ConfigError) as error:
        load_config(path)
    key = line.split(" = ")[0]
    assert str(error.value).startswith(f"{path}: algorithm.{key}: ")
    assert str(error.value).endswith(problem)
    assert "\n" not in str(error.value)


def test_whole_numbers_may_be_written_as_floats(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text("policy = 'p'\n[environment]\nid = 'CartPole-v1'\n[algorithm]\nsteps = 1e5\n")
    assert load_config(path).algorithm.steps == 100_000
