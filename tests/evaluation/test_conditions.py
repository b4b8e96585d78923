from __future__ import annotations

import hashlib
import json
import time

import numpy as np
import pytest

from builders import make_model
from slimq.core.conditions.catalogue import Condition, standard_conditions
from slimq.core.errors import CheckFailedError, EnvironmentFailure, InvalidInputError
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.publish import Publisher, content_entry
from slimq.core.report import EvaluationReport
from slimq.core.repository import Repository
from slimq.core.schema import MINOR
from slimq.core.seeds import HELD_OUT, SELECTION
from slimq.core.statistics import mean_interval
from slimq.environments.rollout import play_episodes
from slimq.evaluation import runner
from slimq.evaluation.comparison import compare_variants
from slimq.evaluation.conditions import make_trials, parse_conditions, policy_spread
from slimq.evaluation.protocol import EvaluationSettings, library_versions
from slimq.evaluation.returns import Silent
from slimq.evaluation.runner import evaluate_policy

FOG = """
import numpy as np

def fog(frame, strength, generator):
    return frame * (1 - strength) + generator.normal(size=frame.shape) * strength
"""


class Watcher(Silent):
    """Counts the episodes that are played, by task, and may interrupt one."""

    def __init__(self, interrupt=None):
        self.played = {}
        self.interrupt = interrupt

    def begin(self, task, total, episodes):
        self.task = task

    def episode(self, episode):
        self.played[self.task] = self.played.get(self.task, 0) + 1
        if self.interrupt == (self.task, self.played[self.task]):
            raise KeyboardInterrupt


def leaning(weight):
    """A CartPole policy that pushes to the side to which the pole falls, and ends in step 120."""
    from onnx import TensorProto, helper

    falls = np.array([0, weight, 1, 1], np.float32)
    weights = {"w": np.stack([-falls, falls], axis=1)}
    nodes = [helper.make_node("MatMul", ["observation", "w"], ["q_values"])]
    return make_model(nodes, weights, (TensorProto.FLOAT, (4,)), 2)


@pytest.fixture
def repository(tiny_repository):
    """`tiny` with two variants that balance the pole, one better than the other."""
    repository = Repository(tiny_repository)
    environment = repository.policy("tiny").environment.model_copy(
        update={"max_episode_steps": 120}
    )
    manifest_of(repository, environment=environment)
    for name, weight in (("fp32", 0.1), ("other", 0.0)):
        replace(repository, name, leaning(weight))
    return repository


@pytest.fixture
def evaluate(repository, tmp_path):
    """Evaluates `tiny/other`, or other variants, under conditions; gives reports and watcher."""

    def evaluate(text="", variants=("other",), interrupt=None, watcher=None, **changes):
        chosen = parse_conditions(text, repository.policy("tiny")) if text else ()
        values = {
            "episodes": 6, "environments": 4, "resamples": 200, "states": 40, "state_episodes": 3,
            "work": tmp_path / "work", "latency": "skip", "conditions": chosen,
        }  # fmt: skip
        watcher = watcher or Watcher(interrupt)
        settings = EvaluationSettings(**(values | changes))
        evaluation = evaluate_policy(repository, "tiny", variants, settings, watcher)
        return evaluation, getattr(watcher, "played", None)

    return evaluate


@pytest.fixture
def fog(tmp_path, monkeypatch):
    """`fog(text)`: writes `mine.py` to the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(text=FOG):
        (tmp_path / "mine.py").write_text(text)

    write()
    return write


def stored(repository, variant="other"):
    return repository.report("tiny", variant)


def labels(report):
    return [found.condition.label for found in report.conditions]


def replace(repository, variant, model):
    """Publishes another model of a variant."""
    manifest = repository.variant("tiny", variant)
    entry = content_entry("model", ".onnx", model)
    changed = manifest.model_copy(update={"model": entry, "report": None})
    Publisher(repository).publish_variant(changed, model)


def manifest_of(repository, **changes):
    """Publishes the policy's manifest with changes."""
    policy = repository.policy("tiny").model_copy(update=changes)
    Publisher(repository).publish_policy(policy, {})
    return policy


def test_every_condition_is_played_on_the_first_seeds_and_published(repository, evaluate):
    evaluation, played = evaluate("standard,repeated=0.5", condition_episodes=4, variants=())
    assert sorted(evaluation.reports) == ["fp32", "other"]
    policy = repository.policy("tiny")
    conditions = (
        *standard_conditions(policy.observation),
        Condition(name="repeated", strength=0.5),
    )
    for name, report in evaluation.reports.items():
        assert stored(repository, name) == report
        assert tuple(found.condition for found in report.conditions) == conditions
        assert len(report.returns) == 6
        for found in report.conditions:
            assert played[f"tiny/{name} {found.condition.label}"] == 4
            assert len(found.returns) == 4
            assert found.mean == pytest.approx(np.mean(found.returns))
            assert found.interval == mean_interval(found.returns, resamples=200)
            assert 1 <= found.distinct_trajectories <= 4
            measured = found.condition.name in ("noise", "bias")
            assert (found.spread is not None) == measured
            assert found.code_sha256 is None


def test_a_report_has_the_episodes_that_were_played(repository, evaluate):
    report = evaluate("sticky=0.5,noise=0.5")[0].reports["other"]
    policy = repository.policy("tiny")
    _, content = repository.read_model("tiny", "other")
    q_function = OnnxPolicy(content, policy.observation, 2)
    trials = make_trials(repository, policy, [found.condition for found in report.conditions])
    for trial, found in zip(trials, report.conditions, strict=True):
        episodes = play_episodes(
            policy.environment, q_function, HELD_OUT.seeds(6), begin=trial.situation.begin
        )
        returns = {episode.seed: episode.return_ for episode in episodes}
        assert found.returns == [returns[seed] for seed in HELD_OUT.seeds(6)]
        assert found.returns != report.returns


def test_the_spread_is_measured_on_the_calibration_states(repository):
    policy = repository.policy("tiny")
    states = repository.calibration(policy).observations(policy.observation)
    low, high = np.percentile(states.astype(float), [1, 99], axis=0)
    assert policy_spread(repository, policy) == tuple(high - low)
    assert policy_spread(repository, repository.policy("tiny_frames")) is None


def test_what_was_played_is_not_played_again(repository, evaluate):
    first, _ = evaluate("standard")
    second, played = evaluate("standard")
    assert second.cached == ["other"]
    assert played == {}
    assert second.reports == first.reports


def test_a_further_condition_is_added_to_those_of_the_report(repository, evaluate):
    evaluate("noise")
    evaluation, played = evaluate("noise,bias")
    assert evaluation.cached == []
    assert played == {"tiny/other bias=0.01": 6}
    assert labels(stored(repository)) == ["noise=0.01", "bias=0.01"]
    assert labels(evaluate("noise=0.5")[0].reports["other"]) == [
        "noise=0.01", "noise=0.5", "bias=0.01",
    ]  # fmt: skip


def test_an_interruption_in_the_middle_of_a_condition_costs_no_finished_episode(
    repository, evaluate
):
    expected = evaluate("noise,bias,sticky", episodes=5)[0].reports["other"].conditions
    model = "tiny/other"
    with pytest.raises(KeyboardInterrupt):
        evaluate("noise,bias,sticky", interrupt=(f"{model} bias=0.01", 3), environments=1,
                 force=True, episodes=5)  # fmt: skip
    _, played = evaluate("noise,bias,sticky", force=True, episodes=5)
    assert played[f"{model} bias=0.01"] == 5 - 3
    assert stored(repository).conditions == expected


def test_the_first_evaluation_resumes_in_the_middle_of_a_condition(repository, evaluate):
    with pytest.raises(KeyboardInterrupt):
        evaluate("noise,bias", interrupt=("tiny/other bias=0.01", 2), environments=1)
    assert stored(repository) is None
    _, played = evaluate("noise,bias")
    assert played == {"tiny/other bias=0.01": 4, "tiny/fp32 states": 3}
    assert labels(stored(repository)) == ["noise=0.01", "bias=0.01"]


def test_force_plays_again_and_finds_the_same(evaluate):
    first, _ = evaluate("noise,sticky")
    second, played = evaluate("noise,sticky", force=True)
    assert second.reports == first.reports
    assert second.cached == []
    assert played["tiny/other noise=0.01"] == played["tiny/other sticky=0.25"] == 6


def test_force_without_conditions_keeps_those_of_the_report(repository, evaluate):
    first, _ = evaluate("noise")
    _, played = evaluate(force=True)
    assert played == {"tiny/other": 6, "tiny/fp32 states": 3}
    assert stored(repository) == first.reports["other"]


def test_more_episodes_of_a_condition_are_added(repository, evaluate):
    few = evaluate("noise", condition_episodes=2)[0].reports["other"].conditions[0]
    evaluation, played = evaluate("noise", condition_episodes=9)
    assert played == {"tiny/other noise=0.01": 7}
    found = stored(repository).conditions[0]
    assert found == evaluation.reports["other"].conditions[0]
    assert found.returns[:2] == few.returns
    assert len(found.returns) == 9


class Meanwhile(Silent):
    """Runs something else once, while the first episode is played."""

    def __init__(self, run):
        self.run = run

    def episode(self, episode):
        run, self.run = self.run, lambda: None
        run()


def test_two_evaluations_at_once_keep_each_others_conditions(repository, evaluate):
    evaluate("noise=0.1", condition_episodes=2)
    other = lambda: evaluate("noise=0.1,repeated=0.5", condition_episodes=5)  # noqa: E731
    evaluation, _ = evaluate("held", condition_episodes=3, watcher=Meanwhile(other))
    found = {c.condition.label: len(c.returns) for c in stored(repository).conditions}
    assert found == {"noise=0.1": 5, "repeated=0.5": 5, "held=0.1": 3}
    assert evaluation.reports["other"] == stored(repository)


def test_what_this_evaluation_has_played_itself_is_not_replaced(repository, evaluate):
    other = lambda: evaluate("held", condition_episodes=2)  # noqa: E731
    evaluate("held", condition_episodes=4, watcher=Meanwhile(other))
    assert [len(found.returns) for found in stored(repository).conditions] == [4]


def test_a_latency_run_keeps_conditions_published_while_it_measures(
    repository, evaluate, monkeypatch
):
    evaluate(variants=())
    measure = runner.measure_latency

    def measure_and_evaluate(*arguments, **options):
        measured = measure(*arguments, **options)
        evaluate("held", condition_episodes=2)
        return measured

    monkeypatch.setattr(runner, "measure_latency", measure_and_evaluate)
    evaluate(latency="only", iterations=2)
    assert labels(stored(repository)) == ["held=0.1"]
    assert stored(repository).latency is not None


def test_fewer_episodes_replace_more_only_by_force(repository, evaluate):
    many = evaluate("noise")[0].reports["other"]
    evaluation, played = evaluate("noise", condition_episodes=2)
    assert played == {}
    assert evaluation.cached == ["other"]
    assert stored(repository) == many
    evaluate("noise", condition_episodes=2, force=True)
    assert len(stored(repository).conditions[0].returns) == 2


def test_conditions_stay_when_more_episodes_are_played_undisturbed(repository, evaluate):
    found = evaluate("noise")[0].reports["other"].conditions
    _, played = evaluate(episodes=8)
    assert played == {"tiny/other": 2, "tiny/fp32 states": 3}
    assert len(stored(repository).returns) == 8
    assert stored(repository).conditions == found


def test_a_report_with_fewer_episodes_is_not_published_and_neither_are_its_conditions(
    repository, evaluate
):
    whole = evaluate()[0].reports["other"]
    evaluation, _ = evaluate("noise", episodes=4)
    assert evaluation.kept == {"other": 6}
    assert labels(evaluation.reports["other"]) == ["noise=0.01"]
    assert stored(repository) == whole


def test_another_protocol_drops_conditions(repository, evaluate):
    evaluate("noise,sticky")
    evaluate("sticky", epsilon=0.2)
    assert labels(stored(repository)) == ["sticky=0.25"]


def test_other_libraries_drop_conditions(repository, evaluate, monkeypatch):
    evaluate("noise")
    newer = library_versions() | {"gymnasium": "99"}
    for module in ("runner", "protocol"):
        monkeypatch.setattr(f"slimq.evaluation.{module}.library_versions", lambda: newer)
    evaluate()
    assert stored(repository).conditions == ()


def test_another_model_is_played_again(repository, evaluate):
    evaluate("noise")
    replace(repository, "other", leaning(0.2))
    _, played = evaluate("noise")
    assert played["tiny/other noise=0.01"] == 6


def test_another_calibration_set_replays_only_what_is_measured_on_it(repository, evaluate):
    evaluate("noise,held,sticky")
    policy = repository.policy("tiny")
    states = repository.calibration(policy)
    content = type(states)(states.frames * 2, states.indices, states.q_values).to_bytes()
    entry = content_entry("calibration", ".npz", content)
    changed = policy.model_copy(update={"calibration": entry})
    Publisher(repository).publish_policy(changed, {entry.path: content})
    _, played = evaluate("noise,held,sticky")
    assert played == {"tiny/other noise=0.01": 6}


def test_without_a_calibration_set_only_what_is_measured_on_it_is_refused(repository, evaluate):
    manifest_of(repository, calibration=None)
    report = evaluate("sticky,held,delayed")[0].reports["other"]
    assert labels(report) == ["held=0.1", "sticky=0.25", "delayed=1"], "the catalogue's order"
    with pytest.raises(CheckFailedError, match="tiny has no calibration set, from which"):
        evaluate("noise")


def test_seeds_for_choosing_are_never_published(repository, evaluate):
    evaluation, played = evaluate("noise", seed_range=SELECTION)
    assert labels(evaluation.reports["other"]) == ["noise=0.01"]
    assert played["tiny/other noise=0.01"] == 6
    assert stored(repository) is None


def test_a_policy_without_an_environment_is_not_played_under_conditions(repository, evaluate):
    policy = manifest_of(repository, environment=None, random_policy=None)
    with pytest.raises(InvalidInputError, match="expected one with an environment, to play in"):
        parse_conditions("standard", policy)
    conditions = standard_conditions(policy.observation)
    with pytest.raises(InvalidInputError, match="expected one with an environment, to play in"):
        evaluate(conditions=conditions)


def test_variants_are_compared_under_the_conditions_of_their_reports(repository, evaluate):
    evaluate("standard", variants=())
    rows = {row.variant: row for row in compare_variants(repository, "tiny").rows}
    assert [r.condition.label for r in rows["other"].robustness.results] == [
        "noise=0.01", "bias=0.01", "held=0.1", "sticky=0.25", "delayed=1",
    ]  # fmt: skip
    full = stored(repository, "fp32").conditions[0]
    assert rows["other"].robustness.results[0].full_mean == full.mean
    assert {r.difference.mean for r in rows["fp32"].robustness.results} == {0.0}


def test_a_report_from_before_there_were_conditions_is_read_and_gets_them(repository, evaluate):
    evaluate()
    document = stored(repository).model_dump(mode="json") | {"schema_minor": 1}
    del document["conditions"]
    old = EvaluationReport.model_validate(document)
    assert old.conditions == ()
    Publisher(repository).attach_report("tiny", "other", old)
    assert evaluate()[0].cached == ["other"]
    _, played = evaluate("noise")
    assert played == {"tiny/other noise=0.01": 6}
    assert labels(stored(repository)) == ["noise=0.01"]
    assert stored(repository).schema_minor == MINOR


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "conditions: expected standard, noise, "),
        ("standard,,blur=1", "received nothing"),
        (",", "received nothing"),
        ("noise,noise=0.01", "conditions: expected each condition once, received noise=0.01 twice"),
        ("standard,standard", "received noise=0.01 twice"),
        ("standard=2", "received 'standard', did you mean 'started'?"),
        ("brightness", "conditions.brightness: expected brightness=STRENGTH (levels)"),
        ("brightness=3", "expected a condition for vectors, received one for frames"),
        ("noise=🎲", "conditions.noise: expected a number from 0 to 255"),
    ],
)
def test_a_list_with_junk_is_refused(repository, text, message):
    with pytest.raises(InvalidInputError) as raised:
        parse_conditions(text, repository.policy("tiny"))
    assert message in str(raised.value)


def test_a_list_may_have_spaces_and_strengths_besides_those_of_the_standard_set(repository):
    found = parse_conditions(" standard , noise=0.5 ", repository.policy("tiny"))
    assert [c.label for c in found][-1] == "noise=0.5"
    assert len(found) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"condition_episodes": 0}, "condition_episodes: expected from 1 to 1000000, the number "
         "of held-out seeds, received 0"),
        ({"condition_episodes": -3}, "received -3"),
        ({"condition_episodes": 10**7}, "received 10000000"),
        ({"latency": "only"}, "conditions: expected none where only latency is measured, "
         "received noise=0.01"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(evaluate, changes, message):
    with pytest.raises(InvalidInputError) as raised:
        evaluate("noise", **changes)
    assert message in str(raised.value)


def test_a_condition_of_ones_own_is_played_and_its_file_recorded(repository, evaluate, fog):
    found = evaluate("mine.py:fog=0.5")[0].reports["other"].conditions[0]
    again, played = evaluate("mine.py:fog=0.5")
    assert found.code_sha256 == hashlib.sha256(FOG.encode()).hexdigest()
    assert found.spread is None
    assert again.cached == ["other"]
    assert played == {}


def test_a_changed_file_is_played_again(repository, evaluate, fog):
    before = evaluate("mine.py:fog=0.5")[0].reports["other"].conditions[0]
    fog(FOG.replace("normal(", "normal(5.0, "))
    evaluation, played = evaluate("mine.py:fog=0.5")
    assert played == {"tiny/other mine.py:fog=0.5": 6}
    (after,) = evaluation.reports["other"].conditions
    assert after.code_sha256 != before.code_sha256
    assert after.returns != before.returns


def test_strength_0_of_ones_own_condition_is_undisturbed_play(evaluate, fog):
    report = evaluate("mine.py:fog=0")[0].reports["other"]
    assert report.conditions[0].returns == report.returns


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise RuntimeError('no sensor')", "RuntimeError: no sensor (mine.py:2)"),
        ("return frame[:2]", "expected numbers of shape (4,), received float32 of shape (2,)"),
        ("return None", "expected numbers of shape (4,), received object of shape ()"),
        ("return frame * float('nan')", "expected finite numbers, received NaN or infinity"),
        ("return frame * 1j", "received complex64 of shape (4,)"),
        ("raise SystemExit", "SystemExit"),
    ],
)
def test_a_fault_of_ones_own_condition_is_told_on_one_line(evaluate, fog, body, message):
    fog(f"def fog(frame, strength, generator):\n    {body}\n")
    with pytest.raises(EnvironmentFailure) as raised:
        evaluate("mine.py:fog")
    assert str(raised.value).startswith("mine.py:fog")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_long_list_is_read_at_once(repository):
    begun = time.monotonic()
    text = ",".join(f"noise={index / 1000}" for index in range(1_000))
    assert len(parse_conditions(text, repository.policy("tiny"))) == 1_000
    assert time.monotonic() - begun < 5
    assert json.dumps(text)
