from __future__ import annotations

import json

import numpy as np
import pytest

from slimq.core.errors import (
    CheckFailedError,
    EnvironmentFailure,
    InvalidInputError,
    NotFoundError,
    RepositoryError,
)
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.publish import Publisher, content_entry
from slimq.core.repository import Repository
from slimq.core.seeds import HELD_OUT, SELECTION
from slimq.environments.rollout import play_episodes
from slimq.evaluation.latency import PROCESSES
from slimq.evaluation.protocol import EvaluationSettings, library_versions, make_protocol
from slimq.evaluation.returns import Silent
from slimq.evaluation.runner import evaluate_policy


class Watcher(Silent):
    def __init__(self):
        self.played = 0

    def episode(self, episode):
        self.played += 1


@pytest.fixture
def repository(tiny_repository, two_processes):
    return Repository(tiny_repository)


@pytest.fixture
def settings(tmp_path):
    def make(**changes):
        values = {
            "episodes": 6,
            "environments": 4,
            "resamples": 200,
            "states": 40,
            "state_episodes": 3,
            "work": tmp_path / "work",
            "iterations": 3,
        }
        return EvaluationSettings(**(values | changes))

    return make


def model_file(repository, variant):
    entry = repository.variant("tiny", variant).model
    return repository.root / "tiny" / "variants" / variant / entry.path


def test_every_variant_is_played_on_the_same_held_out_seeds_and_published(repository, settings):
    evaluation = evaluate_policy(repository, "tiny", settings=settings())
    assert sorted(evaluation.reports) == ["fp32", "other"]
    assert not evaluation.failed
    for name, report in evaluation.reports.items():
        manifest = repository.variant("tiny", name)
        assert repository.report("tiny", name) == report
        assert report.model_sha256 == manifest.model.sha256
        assert report.baseline_sha256 == repository.variant("tiny", "fp32").model.sha256
        assert report.bytes == manifest.model.bytes == model_file(repository, name).stat().st_size
        assert report.seeds == HELD_OUT.seeds(6)
        assert report.mean == pytest.approx(np.mean(report.returns))
        assert report.interval.low <= report.mean <= report.interval.high
        assert report.distinct_trajectories == len(set(report.trajectories))
    fidelity = evaluation.reports["fp32"].fidelity
    assert fidelity.agreement == 1.0
    assert fidelity.q_error_max == 0.0
    assert evaluation.reports["other"].fidelity.q_error_max > 0
    assert evaluation.reports["other"].fidelity.states == fidelity.states <= 40


def test_a_report_has_the_episodes_played(repository, settings):
    report = evaluate_policy(repository, "tiny", ["other"], settings(latency="skip")).reports[
        "other"
    ]
    manifest = repository.policy("tiny")
    _, content = repository.read_model("tiny", "other")
    policy = OnnxPolicy(content, manifest.observation, 2)
    episodes = play_episodes(manifest.environment, policy, report.seeds, environments=1)
    expected = {e.seed: (e.return_, e.length, e.trajectory) for e in episodes}
    got = zip(report.returns, report.lengths, report.trajectories, strict=True)
    assert dict(zip(report.seeds, got, strict=True)) == expected


def test_latency_of_all_variants_is_measured_in_one_run(repository, settings, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("slimq.evaluation.runner.PROCESSES", PROCESSES)
        reports = evaluate_policy(repository, "tiny", settings=settings()).reports
    runs = {report.latency.run_id for report in reports.values()}
    assert len(runs) == 1
    latency = reports["fp32"].latency
    assert latency.processes == PROCESSES
    assert latency.find("alone", 32).iterations == 3 * PROCESSES
    again = evaluate_policy(repository, "tiny", ["other"], settings(latency="only")).reports
    assert list(again) == ["other"]
    later = {repository.report("tiny", name).latency.run_id for name in ("fp32", "other")}
    assert len(later) == 1
    assert later != runs
    assert again["other"].returns == reports["other"].returns


def test_latency_alone_needs_a_report(repository, settings):
    evaluation = evaluate_policy(repository, "tiny", ["other"], settings(latency="only"))
    assert isinstance(evaluation.failed["other"], CheckFailedError)
    assert "run slimq evaluate tiny first" in str(evaluation.failed["other"])


def test_an_up_to_date_report_is_not_measured_again(repository, settings):
    first = evaluate_policy(repository, "tiny", settings=settings())
    watcher = Watcher()
    second = evaluate_policy(repository, "tiny", settings=settings(), progress=watcher)
    assert second.cached == ["fp32", "other"]
    assert watcher.played == 0
    assert second.reports == first.reports


def test_force_measures_again_and_finds_the_same(repository, settings):
    first = evaluate_policy(repository, "tiny", settings=settings(latency="skip"))
    watcher = Watcher()
    options = settings(latency="skip", force=True)
    second = evaluate_policy(repository, "tiny", settings=options, progress=watcher)
    assert second.cached == []
    assert watcher.played == 6 + 6 + 3
    assert second.reports == first.reports


def test_an_interrupted_forced_evaluation_resumes(repository, settings):
    evaluate_policy(repository, "tiny", ["other"], settings(latency="skip"))
    options = settings(latency="skip", force=True, environments=1)

    class Interrupting(Watcher):
        def episode(self, episode):
            super().episode(episode)
            if self.played == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_policy(repository, "tiny", ["other"], options, Interrupting())
    second, third = Watcher(), Watcher()
    evaluate_policy(repository, "tiny", ["other"], options, second)
    assert second.played == 6 - 2 + 3
    evaluate_policy(repository, "tiny", ["other"], options, third)
    assert third.played == 6 + 3


def test_a_report_of_more_episodes_is_only_replaced_by_force(repository, settings):
    whole = evaluate_policy(repository, "tiny", settings=settings()).reports["other"]
    few = settings(episodes=4)
    evaluation = evaluate_policy(repository, "tiny", ["other"], few)
    assert evaluation.kept == {"other": 6}
    assert len(evaluation.reports["other"].returns) == 4
    assert repository.report("tiny", "other") == whole
    forced = evaluate_policy(repository, "tiny", ["other"], settings(episodes=4, force=True))
    assert forced.kept == {}
    assert len(repository.report("tiny", "other").returns) == 4


def test_an_unpublished_result_keeps_its_own_latency(repository, settings):
    evaluate_policy(repository, "tiny", settings=settings(latency="skip"))
    evaluation = evaluate_policy(repository, "tiny", ["other"], settings(episodes=4))
    assert len(evaluation.reports["other"].returns) == 4
    assert repository.report("tiny", "other").latency is not None


def test_episodes_of_other_library_versions_are_played_again(repository, settings, monkeypatch):
    evaluate_policy(repository, "tiny", ["other"], settings(latency="skip"))
    newer = library_versions() | {"gymnasium": "99"}
    for module in ("runner", "protocol"):
        monkeypatch.setattr(f"slimq.evaluation.{module}.library_versions", lambda: newer)
    watcher = Watcher()
    evaluation = evaluate_policy(repository, "tiny", ["other"], settings(latency="skip"), watcher)
    assert evaluation.cached == []
    assert watcher.played == 6 + 3
    assert repository.report("tiny", "other").versions["gymnasium"] == "99"


def test_a_newer_slimq_alone_plays_nothing_again(repository, settings, monkeypatch):
    evaluate_policy(repository, "tiny", ["other"], settings(latency="skip"))
    newer = library_versions() | {"slimq": "99"}
    monkeypatch.setattr("slimq.evaluation.runner.library_versions", lambda: newer)
    watcher = Watcher()
    options = settings(latency="skip", episodes=7)
    evaluate_policy(repository, "tiny", ["other"], options, watcher)
    assert watcher.played == 1 + 3


def stale(repository, *variants):
    """Says that these variants were made from another checkpoint than the policy has."""
    checkpoint = content_entry("checkpoint", ".safetensors", b"weights")
    policy = repository.policy("tiny").model_copy(update={"checkpoint": checkpoint})
    Publisher(repository).publish_policy(policy, {checkpoint.path: b"weights"})
    for name in variants:
        manifest, model = repository.read_model("tiny", name)
        manifest = manifest.model_copy(update={"parent": "0" * 64})
        Publisher(repository).publish_variant(manifest, model)


def test_a_variant_of_another_checkpoint_is_refused(repository, settings):
    stale(repository, "other")
    evaluation = evaluate_policy(repository, "tiny", settings=settings())
    assert list(evaluation.reports) == ["fp32"]
    message = str(evaluation.failed["other"])
    assert "another checkpoint" in message
    assert "slimq compress tiny other" in message
    assert repository.report("tiny", "fp32").latency.variants == ["fp32"]


def test_a_baseline_of_another_checkpoint_gives_no_fidelity(repository, settings):
    stale(repository, "fp32")
    evaluation = evaluate_policy(repository, "tiny", settings=settings())
    assert list(evaluation.failed) == ["fp32"]
    assert evaluation.reports["other"].fidelity is None


def test_latency_alone_is_refused_on_seeds_that_are_not_published(repository, settings):
    options = settings(latency="only", seed_range=SELECTION)
    with pytest.raises(InvalidInputError, match="seeds: expected held-out, as latency is only"):
        evaluate_policy(repository, "tiny", settings=options)


def test_another_protocol_is_another_report_that_reuses_its_episodes(repository, settings):
    evaluate_policy(repository, "tiny", ["fp32"], settings(latency="skip"))
    watcher = Watcher()
    options = settings(latency="skip", episodes=9)
    evaluation = evaluate_policy(repository, "tiny", ["fp32"], options, watcher)
    assert evaluation.cached == []
    assert watcher.played == 3 + 3
    assert len(repository.report("tiny", "fp32").returns) == 9


def test_seeds_for_choosing_are_never_published(repository, settings):
    options = settings(seed_range=SELECTION)
    evaluation = evaluate_policy(repository, "tiny", settings=options)
    assert evaluation.reports["other"].seeds == SELECTION.seeds(6)
    assert repository.report("tiny", "other") is None


def test_an_invalid_variant_fails_by_name_and_the_others_are_evaluated(repository, settings):
    model_file(repository, "other").write_bytes(b"not a model")
    evaluation = evaluate_policy(repository, "tiny", settings=settings())
    assert list(evaluation.reports) == ["fp32"]
    assert isinstance(evaluation.failed["other"], RepositoryError)
    assert "other" in str(evaluation.failed["other"])
    assert repository.report("tiny", "fp32").latency.variants == ["fp32"]


def test_without_its_baseline_a_variant_is_played_but_has_no_fidelity(repository, settings):
    model_file(repository, "fp32").write_bytes(b"not a model")
    evaluation = evaluate_policy(repository, "tiny", settings=settings())
    assert list(evaluation.failed) == ["fp32"]
    assert evaluation.reports["other"].fidelity is None
    assert len(evaluation.reports["other"].returns) == 6


def test_an_invalid_report_is_replaced(repository, settings):
    evaluate_policy(repository, "tiny", settings=settings(latency="skip"))
    entry = repository.variant("tiny", "other").report
    path = repository.root / "tiny" / "variants" / "other" / entry.path
    path.write_bytes(b"{}")
    evaluation = evaluate_policy(repository, "tiny", settings=settings(latency="skip"))
    assert evaluation.cached == ["fp32"]
    assert repository.report("tiny", "other") == evaluation.reports["other"]


def test_a_new_baseline_measures_fidelity_again_without_replaying(repository, settings):
    evaluate_policy(repository, "tiny", settings=settings(latency="skip"))
    policy_json = repository.root / "tiny" / "policy.json"
    values = json.loads(policy_json.read_text())
    policy_json.write_text(json.dumps(values | {"baseline_variant": "other"}))
    watcher = Watcher()
    options = settings(latency="skip")
    evaluation = evaluate_policy(
        Repository(repository.root), "tiny", settings=options, progress=watcher
    )
    assert evaluation.cached == []
    assert watcher.played == 3
    assert evaluation.reports["other"].fidelity.agreement == 1.0
    assert evaluation.reports["fp32"].baseline_variant == "other"


def test_unknown_names_are_refused_with_the_available_ones(repository, settings):
    with pytest.raises(NotFoundError, match="fp32, other"):
        evaluate_policy(repository, "tiny", ["int8"], settings())
    with pytest.raises(NotFoundError, match="tiny"):
        evaluate_policy(repository, "tetris", settings=settings())


@pytest.mark.parametrize(
    ("name", "value"), [("episodes", 0), ("environments", 0), ("epsilon", 2.0), ("iterations", 0)]
)
def test_settings_out_of_range_are_refused_by_name(repository, settings, name, value):
    with pytest.raises(InvalidInputError, match=name):
        make_protocol(repository.policy("tiny").environment, settings(**{name: value}))


GAME = """
import gymnasium
import numpy as np

class Game(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9, 9, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.random.default_rng().random(4, dtype=np.float32), {}
    def step(self, action):
        self.steps += 1
        return np.zeros(4, np.float32), 1.0, self.steps > 3, False, {}
"""


def test_an_environment_that_ignores_its_seed_is_not_evaluated(repository, settings, tmp_path):
    (tmp_path / "game.py").write_text(GAME)
    path = repository.root / "tiny" / "policy.json"
    document = json.loads(path.read_text())
    document["environment"]["id"] = f"{tmp_path}/game.py:Game"
    path.write_text(json.dumps(document))
    with pytest.raises(EnvironmentFailure, match=r"seed 0, reset: observation: differs when the"):
        evaluate_policy(repository, "tiny", settings=settings())
    assert repository.report("tiny", "fp32") is None
