"""Recipes for any policy: on every shipped policy and kind of network, in any unit of reward."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from network_kinds import KINDS, draw_observations, layout_of
from places import POLICIES, ROOT
from slimq.core.calibration import CalibrationSet
from slimq.core.errors import ConfigError, InvalidInputError
from slimq.core.manifest import PolicyManifest, StepRecord
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.qfunction import QValues
from slimq.core.repository import Repository
from slimq.evaluation.fidelity import measure_fidelity, q_values_of
from slimq.networks.export import export_onnx
from slimq.networks.layers import ConvLayer
from slimq.networks.qnetwork import QNetwork, output_layers
from slimq.networks.specification import ConvSpec, MLPSpec, QNetworkSpec
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.accept import AcceptGate, Verdict
from slimq_compression.pipeline import Staged, run_recipe
from slimq_compression.recipe import Recipe, Step, load_recipe
from slimq_compression.selection import open_candidate
from slimq_compression.source import Source, load_source
from small_networks import build_cartpole

RECIPES = {path.stem: load_recipe(path) for path in sorted((ROOT / "recipes").glob("*.toml"))}
UNTRAINED = {"fp32", "int8", "int8-dynamic"}
TRAINED = [name for name in RECIPES if name not in UNTRAINED]
STUDENTS = {"distilled", "tiny"}
CHAINS = {"pruned-int8", "low-rank"}
"""Recipes for plain chains of layers."""
SHORT = {"rounds": 2, "teacher_rounds": 1, "states": 64, "updates": 3, "batch_size": 16}
"""Most of each that a training gets."""
SMALL_SHARE = 0.6
"""Share of a student of a network so small that none of 1/50 exists."""


def shortened(recipe: Recipe, share: float | None = None) -> Recipe:
    """The recipe with little training and, if given, a student of another share."""

    def shorten(step: Step) -> Step:
        values = step.params.model_dump()
        update: dict[str, Any] = {}
        if step.name == "finetune":
            update = {name: min(most, values[name]) for name, most in SHORT.items()}
        if step.name == "student" and share is not None:
            update = {"share": share}
        return replace(step, params=step.params.model_copy(update=update))

    return replace(recipe, network=tuple(shorten(step) for step in recipe.network))


def make(recipe: Recipe, source: Source) -> Staged | str:
    """What a recipe makes, or why it refuses: in one line, before anything is trained."""
    done: list[StepRecord] = []
    try:
        made = run_recipe(recipe, source, on_step=done.append)
    except (ConfigError, InvalidInputError) as error:
        message = str(error)
        assert "\n" not in message
        assert not any(step.name == "finetune" for step in done), message
        return message
    states = source.judged.observations(source.manifest.observation)
    policy = open_candidate(source.manifest, made.model, recipe.name)
    assert np.isfinite(q_values_of(policy, states)).all()
    return made


def test_the_documentation_lists_the_recipes_and_their_limits() -> None:
    text = (ROOT / "docs/configuration.md").read_text().split("### Recipes for any policy\n")[1]
    section = text.split("\n<!-- begin recipe keys -->")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| [`")]
    listed = {row[0].split("`")[1]: row[2] for row in rows}
    limits = {name: recipe.accept.max_bytes or "–" for name, recipe in RECIPES.items()}
    assert listed == limits


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_for_any_policy_names_no_layer_and_no_unit(name: str) -> None:
    """Limits are shares, units the teacher's: nothing is of one network or one reward."""
    text = (ROOT / "recipes" / f"{name}.toml").read_text()
    settings = [line.split("#")[0] for line in text.splitlines()]
    for word in ("conv1", "dense1", "absolute", "background", "window"):
        assert not any(word in line for line in settings)
    limit = RECIPES[name].accept.max_bytes
    assert limit is None or isinstance(limit, str)
    if name in TRAINED:
        assert limit is not None
        assert (RECIPES[name].accept.margin, RECIPES[name].accept.episodes) == (0.02, 30)


# Shipped policies


@pytest.mark.slow
@pytest.mark.parametrize("policy", Repository(POLICIES).policies())
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs_on_every_shipped_policy_or_says_why_not(name: str, policy: str) -> None:
    """On recorded states: what trains needs no environment."""
    source = load_source(Repository(POLICIES), policy)
    manifest = source.manifest.model_copy(update={"environment": None})
    made = make(shortened(RECIPES[name]), replace(source, manifest=manifest))
    if isinstance(made, str):
        assert "expected" in made
        assert name in CHAINS | STUDENTS | {"int8-dynamic", "qat-int8"}


# Kinds of networks

GRAPH, LINEAR = "graph", "no-hidden-layers"
OTHERS = {
    "batch-norm": QNetworkSpec(
        body=ConvSpec(
            convolutions=(
                ConvLayer(channels=12, kernel=3, batch_norm=True),
                ConvLayer(channels=16, kernel=3, batch_norm=True),
            ),
            hidden=(32,),
        ),
        observation_shape=(2, 8, 7),
        observation_dtype="uint8",
        actions=4,
    ),
    LINEAR: QNetworkSpec(
        body=MLPSpec(hidden=()), observation_shape=(4,), observation_dtype="float32", actions=3
    ),
}
OBSERVED = {"batch-norm": "dueling", GRAPH: "dueling", LINEAR: "categorical"}
"""Kinds with the observations of another."""
EVERY_KIND = [*KINDS, *OTHERS, GRAPH]
SMOOTH = {"normalized", "layer-norm", "channels-last", "categorical", "several-inputs"}
"""Kinds with activations other than ReLU."""
COUPLED = {"layer-norm", "channels-last", "dueling", "categorical", "several-inputs"}
"""Kinds that are no chains of plain layers."""


def source_of(kind: str) -> Source:
    """A policy with a network of a kind, or a graph, and recorded states."""
    shape = OBSERVED.get(kind, kind)
    torch.manual_seed(0)
    network = QNetwork(OTHERS.get(kind) or KINDS.get(kind) or KINDS[shape]).eval()
    observation, states = layout_of(shape), draw_observations(shape, 64)
    if network.normalize is not None:
        network.normalize.update(torch.from_numpy(states))
    indices = np.arange(64, dtype=np.int32)[:, None]
    calibration = CalibrationSet(states, indices, TorchPolicy(network)(states))
    manifest = PolicyManifest(
        name=kind,
        environment=None,
        observation=observation,
        actions=[str(action) for action in range(network.spec.actions)],
        training=None,
        random_policy=None,
    )
    if kind != GRAPH:
        return Source(manifest, "0" * 64, network, calibration, calibration)
    content = export_onnx(network)
    policy = OnnxPolicy(content, observation, network.spec.actions, kind)
    return Source(manifest, "0" * 64, policy, calibration, calibration, content)


NO_LAYER = (
    r"layers: expected a role of the layers .* \(first, head\), received 'convolutions', 'dense'"
)
TOO_SMALL = r"expected at least \d+"
WITHOUT_LAYERS = {
    "int8": NO_LAYER,
    "int8-dynamic": r"layers: expected a role of the layers .* \(first, head\), received 'dense'",
    "qat-int8": NO_LAYER,
    "pruned-int8": r"keep: expected a role of the prunable layers \(none\)",
    "low-rank": rf"parameters: {TOO_SMALL} \(all ranks 1\)",
    "sparse": "exclude: expected some of head, but not all",
    "distilled": rf"share: {TOO_SMALL} parameters, one unit per layer",
    "tiny": rf"share: {TOO_SMALL} parameters, one unit per layer",
}
"""What the refusals of a network without hidden layers say."""


def refusal(name: str, kind: str) -> str | None:
    """What the refusal of a recipe says; None if it supports the kind."""
    if kind == LINEAR:
        return WITHOUT_LAYERS.get(name)
    if kind == GRAPH and name not in UNTRAINED | STUDENTS:
        return "graph is kept as an ONNX graph, which this pass cannot change"
    if name in CHAINS and kind in COUPLED:
        return "expected a network of plain convolutions and dense layers"
    if name == "low-rank":
        return WITHOUT_LAYERS[name]
    if name == "qat-int8" and kind in SMOOTH:
        return "activation_bits: expected null for a network with activations other than ReLU"
    return None


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs_on_every_kind_of_network_or_says_why_not(name: str, kind: str) -> None:
    recipe, expected = shortened(RECIPES[name], SMALL_SHARE), refusal(name, kind)
    made = make(recipe, source_of(kind))
    if expected is None:
        assert isinstance(made, Staged), made
        steps = [step.name for step in made.manifest.recipe.steps]
        passes = [step.name for step in (*recipe.network, *recipe.graph)]
        assert [step for step in steps if step not in ("export", "store")] == passes
    else:
        assert isinstance(made, str)
        assert re.search(expected, made), made


@pytest.mark.parametrize("name", sorted(STUDENTS))
def test_a_network_with_no_student_of_the_share_is_refused(name: str) -> None:
    made = make(shortened(RECIPES[name]), source_of("categories"))
    assert isinstance(made, str)
    assert re.search(WITHOUT_LAYERS[name], made)


# Units of reward


def in_other_units(source: Source, factor: float) -> Source:
    """The same policy where all rewards, and so all Q-values, are multiplied by a factor."""
    assert isinstance(source.full, QNetwork)
    teacher = copy.deepcopy(source.full)
    with torch.no_grad():
        for layer in output_layers(teacher).values():
            layer.weight *= factor
            layer.bias *= factor

    def scaled(states: CalibrationSet) -> CalibrationSet:
        return replace(states, q_values=states.q_values * np.float32(factor))

    sets = {"calibration": scaled(source.calibration), "judged": scaled(source.judged)}
    return replace(source, full=teacher, **sets)


def q_values(made: Staged, source: Source) -> QValues:
    states = source.judged.observations(source.manifest.observation)
    return q_values_of(open_candidate(source.manifest, made.model, "x"), states)


@pytest.mark.parametrize("name", RECIPES)
def test_a_power_of_two_in_the_rewards_changes_no_bit_of_what_is_learned(
    name: str, tmp_path: Path
) -> None:
    """What rounds the same way must give the same network, but for the factor in its Q-values."""
    source = load_source(build_cartpole(tmp_path / "policies"), "cartpole")
    recipe = shortened(RECIPES[name], SMALL_SHARE)
    if name == "low-rank":
        cut, *others = recipe.network
        params = cut.params.model_copy(update={"parameters": 0.9})  # it has no such quarter
        recipe = replace(recipe, network=(replace(cut, params=params), *others))
    expected = q_values(run_recipe(recipe, source), source)
    for factor in (2.0**-13, 2.0**10):
        other = in_other_units(source, factor)
        found = q_values(run_recipe(recipe, other), other)
        np.testing.assert_array_equal(found / np.float32(factor), expected)


NOISE = 0.15
"""Most by which agreement differs between trainings of other seeds, or of other rounding. A
temperature in Q-values costs 0.2 where rewards are 1e-4 of those it was made for."""


@pytest.fixture(scope="module")
def cartpole() -> Source:
    return load_source(Repository(POLICIES), "cartpole")


def verdict(recipe: Recipe, source: Source) -> tuple[Verdict, Staged]:
    """The gate's, against the full variant of the same policy."""
    gate = AcceptGate(source, Repository(POLICIES))
    gate.stage_baseline(run_recipe(RECIPES["fp32"], source))
    made = run_recipe(recipe, source)
    return gate.judge(made, recipe.accept), made


def agreement(made: Staged, source: Source) -> float:
    return measure_fidelity(q_values(made, source), source.judged.q_values).agreement


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if name != "fp32"])
def test_the_unit_of_reward_does_not_matter(name: str, cartpole: Source) -> None:
    """The whole recipe on CartPole, as it is and with rewards multiplied by 1e-4 and by 1e3."""
    recipe = RECIPES[name]
    known, made = verdict(recipe, cartpole)
    assert known.holds
    for factor in (1e-4, 1e3):
        other = in_other_units(cartpole, factor)
        found, scaled = verdict(recipe, other)
        assert found.holds
        assert len(scaled.stored) == pytest.approx(len(made.stored), rel=0.05)
        tolerance = NOISE if name in TRAINED else 0.001
        assert agreement(scaled, other) == pytest.approx(agreement(made, cartpole), abs=tolerance)
