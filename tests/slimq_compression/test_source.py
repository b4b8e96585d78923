"""Compression of policies that are kept as graphs, and of those without an environment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from network_kinds import draw_observations, layout_of, make_kind
from slimq.core.calibration import CalibrationSet
from slimq.core.errors import ConfigError, InvalidInputError, RepositoryError
from slimq.core.manifest import ImportRecord, PolicyManifest
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.publish import Publisher, content_entry
from slimq.core.repository import Repository
from slimq.networks.checkpoint import save_network
from slimq.networks.export import export_onnx
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.accept import AcceptGate
from slimq_compression.compress import compress
from slimq_compression.pipeline import is_current
from slimq_compression.recipe import UNPROVEN_AGREEMENT, load_recipe, parse_recipe
from slimq_compression.search.space import searched_network
from slimq_compression.source import load_source

RECIPES = Path(__file__).parents[2] / "recipes"
STUDENT = """
name = "student"
[[network]]
pass = "student"
hidden = [32, 32]
[[network]]
pass = "finetune"
loss = "mse"
rounds = 2
states = 2_000
keep_every = 1
replay_states = 4_000
updates = {updates}
learning_rate = 3e-3
[accept]
margin = 0.02
"""


STATES = 1_600


def publish(root: Path, kind: str, *, as_graph: bool) -> Repository:
    """A policy of this kind of network with recorded states alone."""
    network, states = make_kind(kind), draw_observations(kind, STATES)
    indices = np.arange(len(states), dtype=np.int32)[:, None]
    calibration = CalibrationSet(states, indices, TorchPolicy(network)(states)).to_bytes()
    stored = export_onnx(network) if as_graph else save_network(network)
    stem, suffix = ("graph", ".onnx") if as_graph else ("checkpoint", ".safetensors")
    entry, states_entry = (
        content_entry(stem, suffix, stored),
        content_entry("calibration", ".npz", calibration),
    )
    manifest = PolicyManifest(
        name="mine",
        environment=None,
        observation=layout_of(kind),
        actions=[str(action) for action in range(network.spec.actions)],
        training=None,
        random_policy=None,
        imported=ImportRecord(
            format="onnx",
            algorithm="DQN",
            file="mine.onnx",
            bytes=len(stored),
            sha256=entry.sha256,
            states=STATES,
            max_error=0.0,
        ),
        **{"graph" if as_graph else "checkpoint": entry},
        calibration=states_entry,
    )
    repository = Repository(root)
    files = {entry.path: stored, states_entry.path: calibration}
    Publisher(repository).publish_policy(manifest, files)
    return repository


@pytest.mark.parametrize("as_graph", [True, False], ids=["graph", "network"])
@pytest.mark.parametrize("kind", ["dueling", "several-inputs"])
def test_recipes_for_any_policy_work_without_an_environment(
    tmp_path: Path, kind: str, as_graph: bool
) -> None:
    repository = publish(tmp_path, kind, as_graph=as_graph)
    recipes = [load_recipe(RECIPES / f"{name}.toml") for name in ("fp32", "int8", "int8-dynamic")]
    outcomes = compress(repository, "mine", recipes)
    assert [outcome.status for outcome in outcomes] == ["published"] * 3
    full = outcomes[0].manifest
    assert full.parent == repository.policy("mine").source.sha256
    assert full.macs > 0
    assert full.parameters > 0
    assert outcomes[1].manifest.recipe.accept["margin"] is None
    assert outcomes[1].manifest.recipe.accept["agreement"] == UNPROVEN_AGREEMENT
    assert [c.name for c in outcomes[1].verdict.criteria] == ["agreement"]
    source = load_source(repository, "mine")
    assert is_current(recipes[1], source, repository)
    _, model = repository.read_model("mine", "int8")
    policy = OnnxPolicy(model, layout_of(kind), len(source.manifest.actions))
    states = draw_observations(kind, 32, seed=7)
    difference = np.abs(policy(states) - source.expert(states)).max()
    assert 0 < difference < 0.1 * np.abs(source.expert(states)).max()


def test_a_student_learns_from_a_graph_on_recorded_states(tmp_path: Path) -> None:
    repository = publish(tmp_path, "categorical", as_graph=True)
    outcomes = compress(
        repository, "mine", [parse_recipe(STUDENT.format(updates=1_500), "student.toml")]
    )
    assert outcomes[0].status == "published", outcomes[0].error or outcomes[0].verdict
    fidelity = outcomes[0].manifest.recipe.steps[-1].fidelity
    assert fidelity.agreement >= UNPROVEN_AGREEMENT


def test_a_student_that_has_learned_nothing_is_refused_without_play(tmp_path: Path) -> None:
    repository = publish(tmp_path, "categorical", as_graph=True)
    recipe = parse_recipe(STUDENT.format(updates=1), "student.toml")
    (outcome,) = compress(repository, "mine", [recipe])
    assert outcome.status == "refused"
    assert not (tmp_path / "mine" / "variants" / "student" / "variant.json").exists()


def test_other_network_passes_cannot_change_a_graph(tmp_path: Path) -> None:
    source = load_source(publish(tmp_path, "categorical", as_graph=True), "mine")
    content = 'name = "p"\n[[network]]\npass = "low_rank"\nenergy = 0.5\n[accept]\nmargin = 0.1'
    message = r"^p\.toml: network\[1\]\.low_rank: mine is kept as an ONNX graph.*student"
    with pytest.raises(ConfigError, match=message):
        source.network(parse_recipe(content, "p.toml"))


def test_learning_from_rewards_needs_an_environment(tmp_path: Path) -> None:
    repository = publish(tmp_path, "categories", as_graph=False)
    content = 'name = "td"\n[[network]]\npass = "finetune_td"\n[accept]\nmargin = 0.1'
    (outcome,) = compress(repository, "mine", [parse_recipe(content, "td.toml")])
    assert outcome.status == "failed"
    assert "expected a policy with an environment" in str(outcome.error)


def test_the_search_needs_a_plain_network(tmp_path: Path) -> None:
    source = load_source(publish(tmp_path / "graph", "categorical", as_graph=True), "mine")
    with pytest.raises(RepositoryError, match=r"mine/policy.json: .* the search needs a network"):
        searched_network(source)
    source = load_source(publish(tmp_path / "dueling", "dueling", as_graph=False), "mine")
    with pytest.raises(InvalidInputError, match=r"search.network: .* one with a dueling head"):
        searched_network(source)


def test_the_gate_is_judged_on_recorded_states(tmp_path: Path) -> None:
    repository = publish(tmp_path, "categories", as_graph=False)
    gate = AcceptGate(load_source(repository, "mine"), repository)
    gate.require_baseline(load_recipe(RECIPES / "int8.toml"))
