"""Recipes that another policy teaches, on CartPole with policies that prefer opposite actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from slimq.core.environment import AtariPreprocessing, EnvironmentSpec, WrapperSpec
from slimq.core.errors import AcceptGateError, ConfigError, NotFoundError, RepositoryError
from slimq.core.manifest import PolicyManifest, VariantManifest
from slimq.core.publish import Publisher, content_entry
from slimq.core.qfunction import QFunction
from slimq.core.repository import Repository
from slimq.evaluation.fidelity import measure_fidelity, q_values_of
from slimq.networks.checkpoint import save_network
from slimq.networks.export import export_onnx
from slimq.networks.qnetwork import QNetwork
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression import pipeline, resume
from slimq_compression.compress import compress
from slimq_compression.pipeline import Staged, is_current, is_made_by, run_recipe
from slimq_compression.recipe import Recipe, parse_recipe
from slimq_compression.resume import StepStore
from slimq_compression.selection import load_candidate
from slimq_compression.source import Source, load_source
from slimq_compression.teaching import teach
from small_networks import DrawnStates, balancing_network

FINETUNE = """
[[network]]
pass = "finetune"
rounds = 2
teacher_rounds = 0
states = 200
keep_every = 1
replay_states = 400
updates = 800
learning_rate = 3e-3
"""
ANCHORED = """
[[network]]
pass = "finetune_td"
teacher_weight = 1_000.0
gradient_clip = 1e6
rounds = 2
steps = 200
updates = 800
learning_rate = 3e-3
"""
UNTRAINED = """
[[network]]
pass = "student"
hidden = [8]
[[network]]
pass = "finetune"
states = 16
replay_states = 80
updates = 1
learning_rate = 1e-9
"""
FP32 = 'name = "fp32"\n[accept]\nagreement = 0.99\nreturn_ratio = 0.99\nepisodes = 4\n'


def recipe(
    steps: str = FINETUNE,
    teacher: str | None = "contrary",
    accept: str = "agreement = 0.0",
    share: float = 1.0,
) -> Recipe:
    taught = "" if teacher is None else f'teacher = "{teacher}"\nteacher_share = {share}'
    return parse_recipe(f'name = "taught"\n{taught}\n{steps}\n[accept]\n{accept}', "taught.toml")


def contrary_network(scale: float = 1.0) -> QNetwork:
    """The network of `cartpole` with its two actions swapped, and Q-values multiplied."""
    network = balancing_network()
    with torch.no_grad():
        for parameter in network.head.parameters():
            parameter.copy_(scale * parameter.flip(0))
    return network


def publish(
    repository: Repository,
    network: QNetwork | None = None,
    *,
    name: str = "contrary",
    as_graph: bool = False,
    **changes: Any,
) -> PolicyManifest:
    """A second policy, as `cartpole` but for its network and what is changed."""
    network = contrary_network() if network is None else network
    content = export_onnx(network) if as_graph else save_network(network)
    stem, suffix = ("graph", ".onnx") if as_graph else ("checkpoint", ".safetensors")
    entry = content_entry(stem, suffix, content)
    files = {"checkpoint": None, "graph": None} | {stem: entry}
    manifest = repository.policy("cartpole").model_copy(
        update={"name": name, "calibration": None, **files, **changes}
    )
    Publisher(repository).publish_policy(manifest, {entry.path: content})
    return manifest


@pytest.fixture
def repository(cartpole_repository: Repository) -> Repository:
    """The policy `cartpole`, and `contrary`, which always takes the other action."""
    publish(cartpole_repository)
    return cartpole_repository


def load(repository: Repository, asked: Recipe) -> Source:
    return teach(load_source(repository, "cartpole"), asked, repository)


def agreement(staged: Staged, source: Source, other: QFunction) -> float:
    """The share of calibration states on which a variant acts as another policy."""
    states = source.calibration.observations(source.manifest.observation)
    made = load_candidate(source.manifest, staged.model, staged.manifest.name)
    return measure_fidelity(q_values_of(made, states), q_values_of(other, states)).agreement


@pytest.mark.parametrize(
    ("steps", "as_graph"),
    [(FINETUNE, False), (FINETUNE, True), (ANCHORED, False)],
    ids=["finetune", "finetune from a graph", "finetune_td"],
)
def test_a_network_learns_the_teachers_actions_and_is_compared_with_its_own_policys(
    cartpole_repository: Repository, steps: str, as_graph: bool
) -> None:
    publish(cartpole_repository, as_graph=as_graph)
    source = load(cartpole_repository, recipe(steps))
    staged = run_recipe(recipe(steps), source)
    assert agreement(staged, source, TorchPolicy(contrary_network())) > 0.9
    own = staged.manifest.recipe.steps[-1].fidelity
    assert own is not None
    assert own.agreement == agreement(staged, source, source.expert) < 0.1


def test_the_teacher_plays_the_first_rounds_in_the_policys_environment(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = DrawnStates("mlp")
    asked: list[str] = []

    def make_collector(manifest: PolicyManifest, calibration: Any) -> DrawnStates:
        asked.append(manifest.name)
        return collector

    monkeypatch.setattr(pipeline, "make_collector", make_collector)
    asked_for = recipe(
        FINETUNE.replace("teacher_rounds = 0", "updates = 1").replace("updates = 800", "")
    )
    source = load(repository, asked_for)
    run_recipe(asked_for, source)
    states = source.calibration.observations(source.manifest.observation)
    first = q_values_of(collector.players[0], states)
    np.testing.assert_array_equal(first, TorchPolicy(contrary_network())(states))
    assert len(collector.players) == 2
    assert collector.players[1] is not collector.players[0]
    assert asked == ["cartpole"]


def test_calibration_states_have_the_teachers_q_values_for_passes_alone(
    cartpole_repository: Repository,
) -> None:
    publish(cartpole_repository, contrary_network(scale=8.0))
    own, source = load_source(cartpole_repository, "cartpole"), load(cartpole_repository, recipe())
    states = own.calibration.observations(own.manifest.observation)
    taught = TorchPolicy(contrary_network(scale=8.0))(states)
    np.testing.assert_allclose(source.lessons.q_values, taught, rtol=1e-5)
    np.testing.assert_array_equal(source.lessons.indices, own.calibration.indices)
    np.testing.assert_array_equal(source.judged.q_values, own.judged.q_values)
    assert own.lessons is own.calibration
    staged = run_recipe(recipe(UNTRAINED), source)
    made = load_candidate(own.manifest, staged.model, "taught")(states)
    np.testing.assert_allclose(made.mean(axis=0), taught.mean(axis=0), rtol=0.25)


@pytest.mark.parametrize("as_graph", [False, True])
def test_two_teachers_teach_the_mean_of_their_q_values(
    cartpole_repository: Repository, monkeypatch: pytest.MonkeyPatch, as_graph: bool
) -> None:
    """The policy itself, and one of three times its Q-values that takes the other action."""
    publish(cartpole_repository, contrary_network(scale=3.0), as_graph=as_graph)
    collector = DrawnStates("mlp")
    monkeypatch.setattr(pipeline, "make_collector", lambda *_: collector)
    steps = FINETUNE.replace("teacher_rounds = 0", "teacher_rounds = 1")
    asked = recipe(steps, share=0.4)
    source = load(cartpole_repository, asked)
    staged = run_recipe(asked, source)
    states = source.calibration.observations(source.manifest.observation)
    own, theirs = TorchPolicy(balancing_network()), TorchPolicy(contrary_network(scale=3.0))
    both = 0.6 * own(states) + 0.4 * theirs(states)
    np.testing.assert_allclose(source.lessons.q_values, both, rtol=1e-4, atol=1e-5)
    player = collector.players[0](states)
    assert player.dtype == np.float32
    np.testing.assert_allclose(player, both, rtol=1e-4, atol=1e-5)
    assert agreement(staged, source, theirs) > 0.9
    assert staged.manifest.recipe.teacher is not None
    assert staged.manifest.recipe.teacher.share == 0.4
    assert is_made_by(staged.manifest.recipe, asked)
    assert not is_made_by(staged.manifest.recipe, recipe(steps, share=0.5))
    assert source.digest != load(cartpole_repository, recipe(share=0.5)).digest


def test_shares_are_of_the_policy_that_is_compressed(
    cartpole_repository: Repository, make_network: Any
) -> None:
    small = make_network("wide")
    publish(cartpole_repository, small)
    steps = UNTRAINED.replace("hidden = [8]", "share = 0.5")
    source = load(cartpole_repository, recipe(steps))
    assert source.parameters == load_source(cartpole_repository, "cartpole").parameters
    made = run_recipe(recipe(steps), source).manifest
    assert 0.3 * source.parameters < made.parameters <= 0.5 * source.parameters


def test_the_gate_compares_with_the_full_policy_of_the_variant(repository: Repository) -> None:
    fp32 = parse_recipe(FP32, "fp32.toml")
    strict = recipe(accept="margin = 0.1\nepisodes = 4")
    made, refused = compress(repository, "cartpole", [fp32, strict])
    assert refused.verdict is not None
    assert made.verdict is not None
    assert refused.verdict.reference_returns == made.verdict.returns
    assert max(refused.verdict.returns) < min(made.verdict.returns)
    with pytest.raises(AcceptGateError, match="margin is -"):
        refused.require_accepted()


def test_recipes_of_one_call_have_teachers_of_their_own(repository: Repository) -> None:
    publish(repository, name="twin", network=balancing_network())
    recipes = [
        recipe(teacher=teacher, accept="agreement = 0.5") for teacher in (None, "contrary", "twin")
    ]
    outcomes = compress(repository, "cartpole", recipes, force=True)
    assert [outcome.status for outcome in outcomes] == ["published", "refused", "published"]
    made = repository.variant("cartpole", "taught").recipe.teacher
    assert made is not None
    assert made.policy == "twin"


def test_the_manifest_names_the_teacher_only_where_there_is_another(repository: Repository) -> None:
    manifests = [
        run_recipe(asked, load(repository, asked)).manifest
        for asked in (recipe(), recipe(teacher=None))
    ]
    sha256 = repository.policy("contrary").source.sha256
    documents = [manifest.model_dump(mode="json") for manifest in manifests]
    taught = documents[0]["recipe"].pop("teacher")
    assert taught == {"policy": "contrary", "checkpoint_sha256": sha256, "share": 1.0}
    assert documents[0]["recipe"].keys() == documents[1]["recipe"].keys()
    for manifest in manifests:
        assert VariantManifest.model_validate_json(manifest.model_dump_json()) == manifest


def test_a_variant_is_current_until_its_teacher_changes(repository: Repository) -> None:
    source = load(repository, recipe())
    staged = run_recipe(recipe(), source)
    Publisher(repository).publish_variant(staged.manifest, staged.stored)
    assert is_current(recipe(), source, repository)
    alone = recipe(teacher=None)
    assert not is_current(alone, load(repository, alone), repository)
    assert not is_made_by(staged.manifest.recipe, alone)
    publish(repository, contrary_network(scale=2.0))
    assert not is_current(recipe(), load(repository, recipe()), repository)
    assert is_made_by(staged.manifest.recipe, recipe())
    (outcome,) = compress(repository, "cartpole", [recipe()])
    assert outcome.status == "published"


def test_finished_steps_are_taken_only_from_the_same_teacher(
    repository: Repository, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "LONG_SECONDS", 0.0)
    store, device = StepStore(tmp_path / "work"), torch.device("cpu")
    source = load(repository, recipe())
    run_recipe(recipe(), source, store=store)
    assert store.find(load(repository, recipe()).digest, recipe(), device) is not None
    alone = load_source(repository, "cartpole")
    assert store.find(alone.digest, recipe(teacher=None), device) is None
    publish(repository, contrary_network(scale=2.0))
    assert store.find(load(repository, recipe()).digest, recipe(), device) is None


ATARI = EnvironmentSpec(id="CartPole-v1", preprocessing=AtariPreprocessing())
WRAPPED = EnvironmentSpec(id="CartPole-v1", wrappers=(WrapperSpec(name="FlattenObservation"),))


def test_a_teacher_may_know_another_environment_by_the_same_observations(
    repository: Repository,
) -> None:
    sticky = WrapperSpec(name="StickyAction", kwargs={"repeat_action_probability": 0.25})
    other = EnvironmentSpec(id="CartPole-v0", wrappers=(sticky,), max_episode_steps=200)
    publish(repository, name="sticky", environment=other)
    publish(repository, name="recorded", environment=None)
    for name in ("sticky", "recorded"):
        taught = load(repository, recipe(teacher=name)).teacher
        assert taught is not None
        assert taught.record.policy == name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": ["right", "left"]}, r"actions: expected \['left', 'right'\], received \['r"),
        ({"actions": ["left", "right", "none"]}, r"actions: expected .*, received .*'none'\]"),
        ({"environment": ATARI}, r"environment\.preprocessing: expected None, received .*'stack"),
        ({"environment": WRAPPED}, r"environment\.wrappers: expected \[\], received .*Flatten"),
        ({"shape": (5,)}, r"observation\.shape: expected \[4\], received \[5\]$"),
        ({"dtype": "int32"}, r"observation\.dtype: expected float32, received int32$"),
        ({"high": 9.0}, r"observation\.high: expected None, received 9\.0$"),
    ],
)
def test_a_teacher_with_other_observations_or_actions_is_refused(
    repository: Repository, changes: dict[str, Any], message: str
) -> None:
    layout = repository.policy("cartpole").observation
    own = {key: changes[key] for key in changes if key not in ("actions", "environment")}
    if own:
        changes = {"observation": layout.model_copy(update=own)}
    publish(repository, name="other", **changes)
    found = rf"^taught\.toml: teacher: other differs from cartpole in {message}"
    with pytest.raises(ConfigError, match=found):
        load(repository, recipe(teacher="other"))


def test_frames_that_are_only_played_otherwise_are_the_same_observations(
    repository: Repository,
) -> None:
    manifest = repository.policy("cartpole").model_copy(update={"environment": ATARI})
    source = load_source(repository, "cartpole")
    games = {
        "sticky": AtariPreprocessing(sticky_actions=0.25, noop_max=0, fire_reset=True),
        "slow": AtariPreprocessing(frame_skip=2),
    }
    for name, preprocessing in games.items():
        environment = ATARI.model_copy(update={"preprocessing": preprocessing})
        publish(repository, name=name, environment=environment)
    pupil = Source(manifest, source.checkpoint_sha256, source.full, *[source.calibration] * 2)
    assert teach(pupil, recipe(teacher="sticky"), repository).teacher is not None
    with pytest.raises(ConfigError, match=r"preprocessing: expected .*_skip': 4.*_skip': 2"):
        teach(pupil, recipe(teacher="slow"), repository)


def test_a_policy_is_not_named_as_its_own_teacher(repository: Repository) -> None:
    message = r"^taught\.toml: teacher: expected a policy other than .*, received 'cartpole'$"
    with pytest.raises(ConfigError, match=message):
        load(repository, recipe(teacher="cartpole"))


def test_an_unknown_teacher_is_reported_before_anything_is_made(repository: Repository) -> None:
    told: list[Any] = []
    recipes = [parse_recipe(FP32, "fp32.toml"), recipe(teacher="contrray")]
    message = (
        r"^unknown policy 'contrray', did you mean 'contrary'\?; available: cartpole, contrary"
    )
    with pytest.raises(NotFoundError, match=message):
        compress(repository, "cartpole", recipes, on_outcome=told.append)
    assert told == []
    assert repository.variants("cartpole") == []


def test_a_teacher_needs_a_network(repository: Repository) -> None:
    manifest = repository.policy("cartpole").model_copy(
        update={"name": "empty", "checkpoint": None, "calibration": None}
    )
    Publisher(repository).publish_policy(manifest, {})
    with pytest.raises(RepositoryError, match=r"^empty/policy\.json: checkpoint: is null"):
        load(repository, recipe(teacher="empty"))


def test_a_source_that_another_teaches_is_not_mistaken(repository: Repository) -> None:
    message = r"^taught\.toml: expected teacher \('contrary', 1\.0\), got None$"
    with pytest.raises(ValueError, match=message):
        run_recipe(recipe(), load_source(repository, "cartpole"))
    with pytest.raises(ValueError, match=r"expected teacher None, got TeacherRecord\("):
        run_recipe(recipe(teacher=None), load(repository, recipe()))
