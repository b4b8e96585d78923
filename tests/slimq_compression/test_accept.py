from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from slimq.core.conditions.catalogue import Condition
from slimq.core.errors import AcceptGateError, CheckFailedError, ConfigError, RepositoryError
from slimq.core.publish import Publisher
from slimq.core.repository import Repository
from slimq.core.seeds import SELECTION
from slimq.environments.rollout import play_episodes
from slimq_compression.accept import SEED_OFFSET, AcceptGate, Criterion, Verdict
from slimq_compression.compress import compress
from slimq_compression.conditions import ConditionReference
from slimq_compression.context import silent
from slimq_compression.pipeline import Staged, run_recipe
from slimq_compression.recipe import Accept, parse_recipe
from slimq_compression.source import load_source

SHIPPED = Path(__file__).parents[2] / "policies" / "cartpole"
FP32 = 'name = "fp32"\n[accept]\nagreement = 0.99\nreturn_ratio = 0.99\nepisodes = 4\n'
INT8 = """
name = "int8"
[[graph]]
pass = "quantize_int8"
[accept]
episodes = 6
margin = 0.1
return_ratio = 0.9
agreement = 0.8
max_bytes = 100_000
"""
BROKEN = """
name = "broken"
[[network]]
pass = "prune_channels"
ratio = 0.05
[accept]
agreement = 0.5
"""


@pytest.fixture
def published(cartpole_repository):
    compress(cartpole_repository, "cartpole", [parse_recipe(FP32, "fp32.toml")])
    return cartpole_repository


def judge(repository, content: str, **accept):
    source = load_source(repository, "cartpole")
    recipe = parse_recipe(content, "test.toml")
    wanted = Accept(**accept) if accept else recipe.accept
    return AcceptGate(source, repository).judge(run_recipe(recipe, source), wanted)


def test_a_variant_that_plays_as_well_holds_all_criteria(published) -> None:
    verdict = judge(published, INT8)
    assert [c.name for c in verdict.criteria] == [
        "max_bytes",
        "agreement",
        "return_ratio",
        "margin",
    ]
    assert all(criterion.holds for criterion in verdict.criteria)
    assert len(verdict.returns) == len(verdict.reference_returns) == 6
    verdict.require("int8")


def test_a_variant_that_cannot_play_is_refused_with_every_failed_criterion(published) -> None:
    verdict = judge(published, BROKEN, episodes=4, margin=0.02, return_ratio=0.95)
    with pytest.raises(AcceptGateError) as caught:
        verdict.require("broken")
    message = str(caught.value)
    assert message.startswith("variant 'broken' is not accepted and was not published: ")
    assert "return_ratio is " in message
    assert ", at least 0.95 is needed; margin is -" in message
    assert message.endswith(", at least -0.02 is needed")
    assert [failure[0] for failure in caught.value.failures] == ["return_ratio", "margin"]


def test_play_is_spared_where_bytes_already_fail(published) -> None:
    verdict = judge(published, INT8, max_bytes=10, margin=0.1)
    assert [criterion.name for criterion in verdict.criteria] == ["max_bytes"]
    assert verdict.returns == ()
    with pytest.raises(AcceptGateError, match=r"max_bytes is \d+, at most 10 is needed"):
        verdict.require("int8")


def test_a_missing_baseline_is_reported_before_any_work(cartpole_repository) -> None:
    message = "int8.toml: accept: the gate compares with the variant 'fp32', which is not "
    gate = AcceptGate(load_source(cartpole_repository, "cartpole"), cartpole_repository)
    with pytest.raises(ConfigError, match=message + ".*slimq compress cartpole fp32"):
        gate.require_baseline(parse_recipe(INT8, "int8.toml"))


def test_bytes_may_be_limited_to_a_share_of_the_full_variants(published) -> None:
    full = published.variant("cartpole", "fp32").model.bytes
    verdict = judge(published, INT8, max_bytes="1/2")
    (criterion,) = verdict.criteria
    assert (criterion.limit, criterion.holds) == (full // 2, False)
    size = int(criterion.value)
    message = rf"max_bytes is {size}, at most {full // 2} \(1/2 of the {full} bytes of fp32\) is"
    with pytest.raises(AcceptGateError, match=message):
        verdict.require("int8")
    assert judge(published, INT8, max_bytes=0.5).criteria[0].limit == full // 2


def test_a_share_of_bytes_alone_needs_the_baseline_too(cartpole_repository) -> None:
    content = INT8.replace("100_000", '"1/1"').replace("margin = 0.1\nreturn_ratio = 0.9\n", "")
    gate = AcceptGate(load_source(cartpole_repository, "cartpole"), cartpole_repository)
    assert gate.needs_baseline(parse_recipe(content, "int8.toml"))
    assert not gate.needs_baseline(parse_recipe(content.replace('"1/1"', "9"), "int8.toml"))


def test_the_baseline_is_not_limited_by_a_share_of_itself(cartpole_repository) -> None:
    recipe = parse_recipe(FP32 + 'max_bytes = "1/8"\n', "fp32.toml")
    message = r"^fp32\.toml: accept\.max_bytes: expected an integer, .* received '1/8'$"
    with pytest.raises(ConfigError, match=message):
        compress(cartpole_repository, "cartpole", [recipe])


def test_a_baseline_no_better_than_random_gives_no_scale(published) -> None:
    source = load_source(published, "cartpole")
    strong = source.manifest.random_policy.model_copy(update={"mean": 1_000.0})
    manifest = source.manifest.model_copy(update={"random_policy": strong})
    source = dataclasses.replace(source, manifest=manifest)
    staged = run_recipe(parse_recipe(INT8, "int8.toml"), source)
    with pytest.raises(CheckFailedError, match="returns cannot be scaled"):
        AcceptGate(source, published).judge(staged, Accept(episodes=2, margin=0.1))


def test_a_value_that_is_not_a_number_never_holds() -> None:
    assert not Criterion("margin", float("nan"), "at least", -0.02).holds
    assert not Criterion("max_bytes", float("nan"), "at most", 1.0).holds


def test_an_empty_verdict_accepts() -> None:
    verdict = Verdict(())
    assert verdict.holds
    verdict.require("anything")


@pytest.mark.parametrize("accept", [{}, {"max_bytes": 1_000_000}])
def test_a_gate_that_asks_for_nothing_or_for_bytes_still_runs_the_model(
    cartpole_repository, accept
) -> None:
    source = load_source(cartpole_repository, "cartpole")
    with torch.no_grad():
        source.full.head.bias.fill_(float("nan"))
    staged = run_recipe(parse_recipe(FP32, "fp32.toml"), source)
    with pytest.raises(RepositoryError, match="non-finite Q-values"):
        AcceptGate(source, cartpole_repository).judge(staged, Accept(**accept))


def test_a_baseline_of_another_checkpoint_is_no_baseline(published) -> None:
    made, model = published.read_model("cartpole", "fp32")
    Publisher(published).publish_variant(made.model_copy(update={"parent": "0" * 64}), model)
    message = "int8.toml: accept: the gate compares with the variant 'fp32', which was made from "
    gate, int8 = (
        AcceptGate(load_source(published, "cartpole"), published),
        parse_recipe(INT8, "int8.toml"),
    )
    with pytest.raises(ConfigError, match=message + ".*slimq compress cartpole fp32"):
        gate.require_baseline(int8)
    outcomes = compress(published, "cartpole", [int8])
    assert [(o.variant, o.status) for o in outcomes] == [
        ("fp32", "published"),
        ("int8", "published"),
    ]
    assert published.variant("cartpole", "fp32").parent != "0" * 64


def test_the_gate_plays_no_seed_on_which_training_chose_its_network(published, monkeypatch) -> None:
    played: list[int] = []

    def watch(spec, policy, seeds, **options):
        played.extend(seeds)
        return play_episodes(spec, policy, seeds, **options)

    monkeypatch.setattr("slimq_compression.selection.play_episodes", watch)
    judge(published, INT8)
    assert len(played) == 12
    assert all(seed in SELECTION for seed in played)
    assert not set(played) & set(SELECTION.seeds(10_000))


def test_the_baseline_is_compared_with_the_network_itself(cartpole_repository) -> None:
    verdict = judge(cartpole_repository, FP32)
    assert verdict.returns == verdict.reference_returns
    source = load_source(cartpole_repository, "cartpole")
    staged = run_recipe(parse_recipe(FP32, "fp32.toml"), source)
    with torch.no_grad():
        source.full.head.weight.neg_()
    with pytest.raises(CheckFailedError, match=r"the full policy returns \d"):
        AcceptGate(source, cartpole_repository).judge(staged, Accept(episodes=2, margin=0.0))


def test_q_values_that_are_not_finite_are_refused(cartpole_repository) -> None:
    source = load_source(cartpole_repository, "cartpole")
    with torch.no_grad():
        source.full.head.bias.fill_(float("nan"))
    staged = run_recipe(parse_recipe(FP32, "fp32.toml"), source)
    with pytest.raises(RepositoryError, match="non-finite Q-values"):
        AcceptGate(source, cartpole_repository).judge(staged, Accept(agreement=0.0))


ROBUST = {"episodes": 6, "margin": 1.0, "robust": True, "condition_episodes": 8}
STANDARD = ["noise=0.01", "bias=0.01", "held=0.1", "sticky=0.25", "delayed=1"]


@pytest.fixture
def gate(published) -> AcceptGate:
    return AcceptGate(load_source(published, "cartpole"), published)


def stage(gate: AcceptGate, content: str):
    return run_recipe(parse_recipe(content, "test.toml"), gate.source)


def conditions_of(verdict: Verdict) -> list[str]:
    return [c.basis.removeprefix("under ") for c in verdict.criteria if c.name == "robust"]


def test_the_baseline_keeps_every_condition_that_its_network_keeps(cartpole_repository) -> None:
    verdict = judge(cartpole_repository, FP32, **ROBUST)
    assert conditions_of(verdict) == STANDARD
    assert {c.value for c in verdict.criteria if c.name == "robust"} == {0.0}
    assert {c.limit for c in verdict.criteria if c.name == "robust"} == {-0.05}
    assert verdict.holds


def test_the_baselines_own_loss_is_of_the_same_episodes(gate) -> None:
    gate.judge(stage(gate, INT8), Accept(**ROBUST))
    known = gate._conditions[find("held"), 8]
    seeds = SELECTION.seeds(8, offset=SEED_OFFSET)
    environment, full = gate.source.manifest.environment, gate._baseline_policy()
    undisturbed = np.mean([e.return_ for e in play_episodes(environment, full, seeds)])
    lost = undisturbed - np.mean(known.returns)
    assert known.loss == pytest.approx(lost / (undisturbed - 22.0))


def test_bounds_under_conditions_hold_for_all_at_once() -> None:
    known = ConditionReference(condition=find("held"), returns=(50.0,) * 40, loss=0.1, seconds=1.0)
    returns = [0.0, 100.0] * 20
    assert known.compare(returns, 50.0, 5).low < known.compare(returns, 50.0, 1).low


def find(name: str) -> Condition:
    (label,) = [label for label in STANDARD if label.startswith(name)]
    return Condition(name=name, strength=float(label.split("=")[1]))


@pytest.fixture
def shipped(tmp_path) -> AcceptGate:
    """The gate of the shipped policy, whose smallest variant is lost where frames are late."""
    shutil.copytree(SHIPPED, tmp_path / "shipped" / "cartpole")
    repository = Repository(tmp_path / "shipped")
    return AcceptGate(load_source(repository, "cartpole"), repository)


def staged_micro(gate: AcceptGate) -> Staged:
    manifest, model = gate.repository.read_model("cartpole", "micro")
    return Staged(manifest, model, model)


STRICT = Accept(episodes=4, margin=0.02, robust=True, condition_episodes=16)


def test_the_first_condition_that_is_lost_ends_the_play_and_is_named(shipped) -> None:
    verdict = shipped.judge(staged_micro(shipped), STRICT)
    *kept, lost = [criterion for criterion in verdict.criteria if criterion.name == "robust"]
    assert [criterion.holds for criterion in kept] == [True] * len(kept)
    played = conditions_of(verdict)
    assert played == STANDARD[: len(played)]
    assert [condition.label for condition, _ in shipped._conditions] == played
    bounds = rf"robust is -0\.\d+, at least -0\.05 \({lost.basis}\) is needed$"
    with pytest.raises(AcceptGateError, match=rf"'micro' is not accepted .*: {bounds}"):
        verdict.require("micro")


def test_conditions_are_not_played_where_undisturbed_play_already_fails(gate) -> None:
    verdict = gate.judge(stage(gate, BROKEN), Accept(**ROBUST | {"margin": 0.02}))
    assert [criterion.name for criterion in verdict.criteria] == ["margin"]
    assert not gate._conditions


def test_the_cheapest_condition_comes_first_and_the_baseline_is_played_once(
    shipped, monkeypatch
) -> None:
    micro = staged_micro(shipped)
    _, model = shipped.repository.read_model("cartpole", "fp32")
    copied = micro.manifest.model_copy(update={"name": "copy"})
    assert shipped.judge(Staged(copied, model, model), STRICT).holds
    assert [condition.label for condition, _ in shipped._conditions] == STANDARD
    late = (find("delayed"), 16)
    shipped._conditions[late] = shipped._conditions[late].model_copy(update={"seconds": 0.0})
    labels: list[str] = []

    def watch(label, total, unit):
        labels.append(label)
        return silent(label, total, unit)

    monkeypatch.setattr(shipped, "progress", watch)
    verdict = shipped.judge(micro, STRICT)
    assert conditions_of(verdict) == ["delayed=1"]
    assert labels == ["accept micro", "accept micro, delayed=1"]


def test_a_condition_in_which_the_full_policy_is_lost_is_skipped(gate, monkeypatch) -> None:
    chosen = (Condition(name="sticky", strength=1.0), Condition(name="noise", strength=0.0))
    monkeypatch.setattr("slimq_compression.conditions.standard_conditions", lambda _: chosen)
    verdict = gate.judge(stage(gate, INT8), Accept(**ROBUST))
    (skipped,) = verdict.skipped
    assert skipped.condition == chosen[0]
    assert skipped.loss > 0.5
    assert conditions_of(verdict) == ["noise=0"]


def test_manifests_keep_the_criterion_only_where_it_was_set(published) -> None:
    made = published.variant("cartpole", "fp32").recipe.accept
    assert {"robust", "condition_episodes"}.isdisjoint(made)
    assert Accept(**ROBUST).model_dump()["condition_episodes"] == 8
    content = FP32.replace('"fp32"', '"copy"') + "margin = 1.0\nrobust = true\n"
    outcomes = [
        compress(published, "cartpole", [parse_recipe(content, "copy.toml")])[0] for _ in range(2)
    ]
    assert [outcome.status for outcome in outcomes] == ["published", "unchanged"]
    assert outcomes[0].manifest.recipe.accept["robust"] is True
    without = parse_recipe(content.replace("robust = true\n", ""), "copy.toml")
    assert compress(published, "cartpole", [without])[0].status == "published"
