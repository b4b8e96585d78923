"""docs/configuration.md against the models that read configurations and recipes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from reference_tables import RECIPE, TRAINING, anchor, table, write_tables
from slimq.networks.specification import ConvSpec
from slimq_compression.catalogue import CATALOGUE
from slimq_compression.recipe import load_recipe, parse_recipe
from slimq_trainer.config import AlgorithmConfig, TrainConfig


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "configuration.md").read_text(encoding="utf-8")


def examples(page: str) -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def test_the_tables_are_those_of_the_models(page: str) -> None:
    remedy = "run `python tests/support/reference_tables.py`"
    assert write_tables(page) == page, remedy


def test_every_key_of_every_model_and_pass_has_a_row(page: str) -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE))
    models = [*TRAINING.values(), *RECIPE.values(), *(row.params for row in CATALOGUE.values())]
    assert {key for model in models for key in model.model_fields} == rows


def test_every_anchor_exists(root: Path, page: str) -> None:
    for file, target in re.findall(r"\]\(([a-z]*(?:\.md)?)#([^)]+)\)", page):
        text = (root / "docs" / file).read_text(encoding="utf-8") if file else page
        headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
        assert target in {anchor(heading) for heading in headings}, f"{file}#{target}"


def test_an_edited_table_is_rewritten(page: str) -> None:
    assert write_tables(page.replace("| `50_000` |", "| `60_000` |")) == page


def test_a_key_without_a_description_is_refused() -> None:
    class Undocumented(BaseModel):
        width: int = 1

    with pytest.raises(ValueError, match=r"Undocumented\.width has no description"):
        table(Undocumented)


@pytest.mark.parametrize(
    ("network", "place"),
    [
        ({"hidden": [8]}, "network"),
        ({"kind": "multi", "encoders": {"a": {"hidden": [8]}}, "hidden": [8]}, "encoders"),
        ({"kind": "conv", "convolutions": [{"groups": 2}], "hidden": [8]}, "convolutions"),
    ],
)
def test_a_kind_that_the_page_calls_required_is(
    page: str, network: dict[str, Any], place: str
) -> None:
    values = tomllib.loads(examples(page)[0]) | {"network": network}
    with pytest.raises(ValidationError, match=place):
        TrainConfig.model_validate(values)


def test_a_convolution_may_go_without_its_kind(page: str) -> None:
    layer = {"channels": 8, "kernel": 3}
    network = {"kind": "conv", "convolutions": [layer], "hidden": [8]}
    config = TrainConfig.model_validate(tomllib.loads(examples(page)[0]) | {"network": network})
    assert isinstance(config.network, ConvSpec)
    assert '| `kind` | `"conv"` | `"conv"` |' in page


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="begin training keys"):
        write_tables("# Configuration\n")


def test_the_minimal_configuration_is_valid_and_sets_what_is_for_atari_only(page: str) -> None:
    config = TrainConfig.model_validate(tomllib.loads(examples(page)[0]))
    algorithm, atari = config.algorithm, AlgorithmConfig(steps=10**6)
    assert algorithm.optimizer == "adam"
    assert algorithm.denominator_term < atari.denominator_term
    assert not algorithm.clip_rewards
    assert algorithm.learning_starts < algorithm.epsilon_steps < algorithm.steps
    assert algorithm.target_update_every * algorithm.update_every < algorithm.steps / 10


def test_the_steps_by_role_are_valid(page: str) -> None:
    text = 'name = "by-role"\n' + examples(page)[2] + "[accept]\nmargin = 0.02\n"
    pruned, quantized = parse_recipe(text, "docs/configuration.md").network
    assert pruned.params.model_dump()["keep"]["first"] == 1.0
    assert quantized.params.model_dump()["bits"]["default"] == 5


def test_the_recipe_is_the_one_that_is_shipped(root: Path, page: str) -> None:
    path = root / "recipes" / "int8.toml"
    assert examples(page)[1] == path.read_text(encoding="utf-8")
    recipe, shipped = parse_recipe(examples(page)[1], "docs/configuration.md"), load_recipe(path)
    assert (recipe.fingerprint, recipe.accept) == (shipped.fingerprint, shipped.accept)
