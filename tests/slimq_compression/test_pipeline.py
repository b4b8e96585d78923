from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

from slimq.core.environment import AtariPreprocessing, EnvironmentSpec
from slimq.core.errors import ConfigError, NotFoundError, RepositoryError
from slimq.core.manifest import StepRecord
from slimq.core.publish import Publisher
from slimq.core.verification import find_problems
from slimq.environments.collection import collect_calibration
from slimq.environments.vector import describe
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.context import step_seed
from slimq_compression.pipeline import is_current, run_recipe
from slimq_compression.recipe import load_recipe, parse_recipe
from slimq_compression.source import Source, load_source

RECIPE = """
name = "small"
description = "Half the units, eight bits."
seed = {seed}

[[network]]
pass = "prune_channels"
ratio = 0.5

[[network]]
pass = "finetune"
rounds = 2
states = 64
updates = 10
batch_size = 16
replay_states = 100

[[graph]]
pass = "quantize_int8"

[accept]
agreement = 0.1
"""


def recipe(seed: int = 0):
    return parse_recipe(RECIPE.format(seed=seed), "small.toml")


def test_every_step_is_recorded_with_what_it_did(cartpole_repository) -> None:
    seen: list[StepRecord] = []
    source = load_source(cartpole_repository, "cartpole")
    staged = run_recipe(recipe(), source, on_step=seen.append)
    manifest = staged.manifest
    assert list(manifest.recipe.steps) == seen
    assert [s.name for s in seen] == ["prune_channels", "finetune", "export", "quantize_int8"]
    assert seen[0].bytes == seen[1].bytes == seen[2].bytes
    assert all(s.fidelity is not None and s.fidelity.regret >= 0 for s in seen)
    assert seen[1].fidelity == seen[2].fidelity
    assert seen[3].bytes == manifest.model.bytes == len(staged.model)
    assert seen[0].parameters == {
        "importance": "l1",
        "keep": None,
        "ratio": 0.5,
        "multiple_of": 1,
        "states": 256,
    }
    assert len({s.parameters_count for s in seen}) == 1
    assert manifest.parameters == seen[0].parameters_count < 16 * 5 + 12 * 17 + 2 * 13
    assert manifest.nonzero_parameters <= manifest.parameters
    assert seen[0].macs < 16 * 4 + 12 * 16 + 2 * 12
    assert manifest.precision == "int8"
    assert manifest.parent == source.checkpoint_sha256
    assert manifest.opset == onnx.load_model_from_string(staged.model).opset_import[0].version
    assert {"torch", "onnx", "onnxruntime"} <= manifest.versions.keys()


def test_a_recipe_run_twice_gives_the_same_bytes_and_another_seed_others(
    cartpole_repository,
) -> None:
    first, again, other = (
        run_recipe(recipe(seed), load_source(cartpole_repository, "cartpole")).model
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


STORED = """
name = "stored"
{store}
[[network]]
pass = "prune_channels"
ratio = 0.5

[[graph]]
pass = "store_weights"

[accept]
agreement = 0.0
"""
ZSTD = '[store]\ncompression = "zstd"\n'


def stored_recipe(store: str):
    return parse_recipe(STORED.format(store=store), "stored.toml")


def test_a_compressed_file_is_a_step_of_its_own_and_read_back_as_the_model(
    cartpole_repository,
) -> None:
    source = load_source(cartpole_repository, "cartpole")
    plain, packed = (run_recipe(stored_recipe(store), source) for store in ("", ZSTD))
    assert plain.stored == plain.model == packed.model
    assert [step.name for step in plain.manifest.recipe.steps][-1] == "store_weights"
    step = packed.manifest.recipe.steps[-1]
    assert (step.name, step.parameters["compression"]) == ("store", "zstd")
    entry = packed.manifest.model
    assert step.bytes == entry.bytes == len(packed.stored) < len(packed.model)
    assert entry.uncompressed_bytes == len(packed.model)
    assert entry.path.endswith(".onnx.zst")
    Publisher(cartpole_repository).publish_variant(packed.manifest, packed.stored)
    assert cartpole_repository.read_model("cartpole", "stored")[1] == packed.model
    missing = ["baseline_variant", "default_variant"]
    problems = [str(problem) for problem in find_problems(cartpole_repository, "cartpole")]
    assert [p.split(": ")[1] for p in problems] == missing


def test_a_variant_is_not_current_once_it_is_to_be_stored_otherwise(cartpole_repository) -> None:
    source = load_source(cartpole_repository, "cartpole")
    staged = run_recipe(stored_recipe(ZSTD), source)
    Publisher(cartpole_repository).publish_variant(staged.manifest, staged.stored)
    assert is_current(stored_recipe(ZSTD), source, cartpole_repository)
    for other in ("", ZSTD + "level = 3\n", ZSTD + "compact = true\n"):
        assert not is_current(stored_recipe(other), source, cartpole_repository)


def test_a_compressed_file_is_the_same_twice_and_another_at_another_level(
    cartpole_repository,
) -> None:
    source = load_source(cartpole_repository, "cartpole")
    first, again, fast = (
        run_recipe(stored_recipe(f"{ZSTD}level = {level}\n"), source).stored
        for level in (19, 19, 1)
    )
    assert first == again != fast


def test_a_compact_file_is_smaller_and_its_step_says_so(cartpole_repository) -> None:
    source = load_source(cartpole_repository, "cartpole")
    plain = run_recipe(stored_recipe(""), source)
    small = run_recipe(stored_recipe("[store]\ncompact = true\n"), source)
    assert small.stored == small.model
    assert small.manifest.model.path.endswith(".onnx")
    step = small.manifest.recipe.steps[-1]
    assert (step.name, step.bytes) == ("store", len(small.model))
    assert len(small.model) < len(plain.model)
    counts = ("parameters", "nonzero_parameters", "macs", "precision", "opset")
    for count in counts:
        assert getattr(small.manifest, count) == getattr(plain.manifest, count)


def test_the_manifest_tells_the_operator_set_that_storage_needs(
    cartpole_repository, make_network
) -> None:
    source = load_source(cartpole_repository, "cartpole")
    teacher = make_network("mlp")
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.copy_(torch.sign(parameter))
    staged = run_recipe(stored_recipe("[export]\nopset = 18\n"), replace(source, full=teacher))
    model = onnx.load_model_from_string(staged.model)
    assert staged.manifest.opset == model.opset_import[0].version == 25
    assert "int2" in staged.manifest.precision


def test_nothing_is_written_before_publication(cartpole_repository) -> None:
    before = sorted(cartpole_repository.root.rglob("*"))
    run_recipe(recipe(), load_source(cartpole_repository, "cartpole"))
    assert sorted(cartpole_repository.root.rglob("*")) == before


def test_a_variant_is_current_until_seed_steps_or_checkpoint_change(cartpole_repository) -> None:
    source = load_source(cartpole_repository, "cartpole")
    assert not is_current(recipe(), source, cartpole_repository)
    staged = run_recipe(recipe(), source)
    Publisher(cartpole_repository).publish_variant(staged.manifest, staged.model)
    assert is_current(recipe(), source, cartpole_repository)
    assert not is_current(recipe(1), source, cartpole_repository)
    changed = parse_recipe(RECIPE.format(seed=0).replace("updates = 10", "updates = 11"), "s")
    assert not is_current(changed, source, cartpole_repository)
    other = dataclasses.replace(source, checkpoint_sha256="0" * 64)
    assert not is_current(recipe(), other, cartpole_repository)


@pytest.fixture
def published(cartpole_repository):
    """A repository that holds the variant of the recipe, and its source."""
    source = load_source(cartpole_repository, "cartpole")
    staged = run_recipe(recipe(), source)
    Publisher(cartpole_repository).publish_variant(staged.manifest, staged.model)
    assert is_current(recipe(), source, cartpole_repository)
    return cartpole_repository, source


def test_a_variant_is_not_current_under_another_gate(published) -> None:
    repository, source = published
    stricter = RECIPE.format(seed=0).replace("agreement = 0.1", "agreement = 0.2")
    assert not is_current(parse_recipe(stricter, "small.toml"), source, repository)


def test_a_variant_is_not_current_with_another_calibration_set(published) -> None:
    repository, source = published
    entry = source.manifest.calibration.model_copy(update={"sha256": "0" * 64})
    manifest = source.manifest.model_copy(update={"calibration": entry})
    assert not is_current(recipe(), replace(source, manifest=manifest), repository)


@pytest.mark.parametrize("broken", [None, b"tampered"])
def test_a_variant_whose_model_is_missing_or_tampered_with_is_not_current(
    published, broken
) -> None:
    repository, source = published
    made = repository.variant("cartpole", "small")
    path = repository.root / "cartpole" / "variants" / "small" / made.model.path
    path.unlink()
    if broken:
        path.write_bytes(broken)
    assert not is_current(recipe(), source, repository)


def test_a_step_that_trains_says_on_what_and_its_parameters_stay_as_asked(
    cartpole_repository,
) -> None:
    content = RECIPE.format(seed=0).replace("rounds = 2", 'rounds = 1\nprecision = "auto"')
    asked = parse_recipe(content, "small.toml")
    source = load_source(cartpole_repository, "cartpole")
    staged = run_recipe(asked, source)
    pruned, tuned, *others = staged.manifest.recipe.steps
    assert tuned.parameters["precision"] == "auto"
    assert tuned.hardware.endswith((", 1 thread, fp32", ", 1 thread, bf16"))
    assert [step.hardware for step in (pruned, *others)] == [None, None, None]
    Publisher(cartpole_repository).publish_variant(staged.manifest, staged.model)
    assert is_current(asked, source, cartpole_repository)


def test_a_run_leaves_denormal_numbers_as_they_were(cartpole_repository) -> None:
    torch.set_flush_denormal(False)
    run_recipe(recipe(), load_source(cartpole_repository, "cartpole"))
    assert (torch.tensor([1e-40]) * 0.5).item() > 0


def test_the_bound_of_cartpoles_int8_holds_its_network_and_is_a_bound(
    cartpole_repository, make_network
) -> None:
    source = load_source(cartpole_repository, "cartpole")
    source = replace(source, full=make_network("wide"))
    folder = Path(__file__).parents[2] / "recipes"
    sizes = [
        len(run_recipe(load_recipe(folder / name), source).model)
        for name in ("fp32.toml", "cartpole/int8.toml")
    ]
    bound = load_recipe(folder / "cartpole/int8.toml").accept.max_bytes
    assert sizes[1] <= bound < sizes[0] / 3


def test_parameters_that_do_not_fit_the_network_are_named_with_file_and_step(
    cartpole_repository,
) -> None:
    content = RECIPE.format(seed=0).replace("ratio = 0.5", "keep = [0.5]")
    source = load_source(cartpole_repository, "cartpole")
    message = r"^small\.toml: network\[1\]\.prune_channels\.keep: expected 2 shares"
    with pytest.raises(ConfigError, match=message):
        run_recipe(parse_recipe(content, "small.toml"), source)


def test_a_policy_that_is_missing_or_has_no_checkpoint_is_named(tiny_repository) -> None:
    from slimq.core.repository import Repository

    with pytest.raises(NotFoundError, match="unknown policy 'tny', did you mean 'tiny'"):
        load_source(Repository(tiny_repository), "tny")
    with pytest.raises(RepositoryError, match=r"tiny/policy\.json: checkpoint: is null"):
        load_source(Repository(tiny_repository), "tiny")


def test_steps_have_seeds_of_their_own() -> None:
    assert step_seed(0, 0) == step_seed(0, 0)
    assert len({step_seed(seed, index) for seed in range(3) for index in range(3)}) == 9


@pytest.mark.slow
def test_the_shipped_recipes_give_the_same_bytes_twice_for_the_pong_network(
    make_network, make_policy
) -> None:
    """The recipes of Pong with the Nature network, untrained, and shorter fine-tuning."""
    network = make_network("nature")
    environment = EnvironmentSpec(
        id="PongNoFrameskip-v4", preprocessing=AtariPreprocessing(), max_episode_steps=200
    )
    observation, actions, _ = describe(environment)
    calibration = collect_calibration(environment, observation, TorchPolicy(network), 64)
    manifest = make_policy("pong", environment, observation, actions)
    source = Source(manifest, "0" * 64, network, calibration, calibration)
    short = {"rounds": 2, "states": 64, "updates": 4, "batch_size": 16, "keep_every": 1}
    for name, most in (("fp32", 6_760_000), ("int8", 1_730_000), ("pruned-int8", 843_000)):
        folder = Path(__file__).parents[2] / "recipes"
        shipped = load_recipe(folder / ("" if name == "fp32" else "pong") / f"{name}.toml")
        steps = tuple(
            replace(step, params=step.params.model_copy(update=short))
            if step.name == "finetune"
            else step
            for step in shipped.network
        )
        made = replace(shipped, network=steps)
        first, again = (run_recipe(made, source).model for _ in range(2))
        assert first == again
        assert len(first) <= most
