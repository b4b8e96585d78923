"""Searches that really run, on a copy of the shipped CartPole policy."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from slimq.core.conditions.catalogue import standard_conditions
from slimq.core.errors import CheckFailedError, ConfigError, InvalidInputError
from slimq.core.report import Fidelity
from slimq.core.repository import Repository
from slimq.core.robustness import CONDITION_MARGIN
from slimq.core.seeds import HELD_OUT, SELECTION
from slimq.core.statistics import PairedDifference
from slimq.core.verification import find_problems
from slimq_compression import accept
from slimq_compression.compress import compress
from slimq_compression.conditions import ConditionReference
from slimq_compression.recipe import load_recipe
from slimq_compression.search.run import Snapshot, pareto_front, ranking, search, snapshot
from slimq_compression.search.sampled import SampledSpace
from slimq_compression.search.stages import (
    GATE_OFFSET,
    SCREENING_OFFSET,
    Stages,
    telling_episodes,
)
from slimq_compression.search.study import (
    JOURNAL,
    MAX_ATTEMPTS,
    SearchSettings,
    dominates,
    finished_trials,
    is_nondominated,
    lock_study,
    open_study,
    requeue_trials,
)
from slimq_compression.search.winners import attempts, publish_winners, winning_recipe
from slimq_compression.search.worker import MIN_PEERS, Worker, keeps_condition
from slimq_compression.source import load_source
from small_networks import OBSERVATIONS

SHIPPED = Path(__file__).parents[3] / "policies" / "cartpole"
Make = Callable[..., SearchSettings]


@pytest.fixture
def settings(tmp_path: Path) -> Make:
    """`settings(**changes)`: of a search of seconds; any loss at all is within its margin."""
    shutil.copytree(SHIPPED, tmp_path / "policies" / "cartpole")

    def make(**changes: Any) -> SearchSettings:
        short: dict[str, Any] = {
            "margin": 1.0,
            "trials": 4,
            "minutes": 5.0,
            "effort": 0.005,
            "screening_episodes": 2,
            "gate_episodes": 3,
            "robust": False,
            "work": tmp_path / "search",
        }
        return SearchSettings(tmp_path / "policies", "cartpole", **{**short, **changes})

    return make


def measured(study: optuna.Study) -> list[Any]:
    """What does not depend on the clock."""
    names = ("candidate", "bytes", "agreement", "regret", "score")
    return [[t.state, t.params, *(t.user_attrs.get(n) for n in names)] for t in study.trials]


def test_an_interrupted_search_goes_on_to_the_right_number_of_trials(settings: Make) -> None:
    chosen = settings()

    def interrupt(now: Snapshot) -> None:
        if now.ended == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(chosen, on_trial=interrupt)
    study = open_study(chosen)
    assert len(finished_trials(study)) == 2
    # What a worker that is killed leaves behind: a trial that runs, and half a line.
    orphan = study.ask()
    orphan.suggest_categorical("structure", ["pruned", "student"])
    with (chosen.folder / JOURNAL).open("ab") as journal:
        journal.write(b'{"op_code":6,"wor')
    seen: list[int] = []
    search(chosen, on_trial=lambda now: seen.append(now.ended))
    study = open_study(chosen)
    assert seen == [2, 3, 4]
    assert len(finished_trials(study)) == chosen.trials
    states = [trial.state for trial in study.trials]
    assert TrialState.RUNNING not in states
    assert states[orphan.number] is TrialState.FAIL
    again = next(trial for trial in study.trials if trial.user_attrs.get("attempt") == 2)
    assert again.params["structure"] == orphan.params["structure"]


def test_time_is_noted_after_each_trial_so_that_a_killed_run_has_spent_it(settings: Make) -> None:
    chosen, noted = settings(trials=3), dict[int, float]()

    def look(now: Snapshot) -> None:
        noted.setdefault(now.ended, open_study(chosen).user_attrs["seconds"])

    study = search(chosen, on_trial=look)
    seconds = [0.0, *(trial.user_attrs["seconds"] for trial in finished_trials(study))]
    for ended, spent in enumerate(np.cumsum(seconds)):
        assert noted[ended] >= spent
    assert study.user_attrs["seconds"] >= noted[3]


def test_a_search_that_is_done_runs_nothing_more(settings: Make) -> None:
    chosen = settings(trials=1)
    search(chosen)
    seen: list[Snapshot] = []
    study = search(chosen, on_trial=seen.append)
    assert [now.ended for now in seen] == [1]
    assert len(study.trials) == 1


def test_no_trial_begins_after_the_time_is_up(settings: Make) -> None:
    assert finished_trials(search(settings(minutes=1e-9))) == []


def test_the_same_seed_gives_the_same_trials_and_another_gives_others(
    settings: Make, tmp_path: Path
) -> None:
    one = measured(search(settings(trials=3)))
    assert one == measured(search(settings(trials=3, work=tmp_path / "again")))
    other = measured(search(settings(trials=2, seed=1)))
    assert other[0][1] == one[0][1], "the published student, where both start"
    assert other[1][1] != one[1][1]


def test_a_candidate_over_the_limit_of_bytes_is_dropped_untrained(settings: Make) -> None:
    study = search(settings(max_bytes=100, trials=3))
    for trial in study.trials:
        assert trial.state is TrialState.PRUNED
        assert trial.user_attrs["reason"].startswith("bytes ")
        assert trial.user_attrs["reason"].endswith(" over 105")
        assert trial.constraints["bytes"] > 0
        assert "agreement" not in trial.user_attrs
    assert pareto_front(study) == []


def test_a_candidate_over_the_limit_of_latency_is_dropped_untrained(settings: Make) -> None:
    study = search(settings(max_latency_us=0.01, trials=1))
    (trial,) = study.trials
    assert trial.state is TrialState.PRUNED
    assert "latency_us " in trial.user_attrs["reason"]
    assert trial.user_attrs["latency_us"] > 0.01
    assert "agreement" not in trial.user_attrs


@pytest.mark.slow
def test_a_winner_is_published_by_a_recipe_that_makes_it_again(
    settings: Make, tmp_path: Path
) -> None:
    chosen = settings(trials=8, effort=0.02, max_bytes=100_000)
    study = search(chosen)
    best = ranking(study, chosen.margin)[0]
    recipes = tmp_path / "recipes"
    (winner,) = publish_winners(chosen, study, 1, recipes, effort=0.05)
    assert winner.found == best
    assert winner.outcome is not None
    assert winner.outcome.status == "published"
    assert winner.outcome.verdict is not None
    names = {criterion.name for criterion in winner.outcome.verdict.criteria}
    assert names == {"margin", "max_bytes"}
    repository = Repository(chosen.policies)
    assert winner.outcome.manifest.name in repository.variants("cartpole")
    assert find_problems(repository, "cartpole") == []
    assert winner.recipe is not None
    assert winner.recipe.parent == recipes / "cartpole"
    (again,) = compress(repository, "cartpole", [load_recipe(winner.recipe)])
    assert again.status == "unchanged"
    annotated = "# mine\n" + winner.recipe.read_text(encoding="utf-8")
    winner.recipe.write_text(annotated, encoding="utf-8")
    (same,) = publish_winners(chosen, study, 1, recipes, effort=0.05)
    assert same.outcome is not None
    assert same.outcome.status == "unchanged"
    assert winner.recipe.read_text(encoding="utf-8") == annotated
    winner.recipe.write_text("# mine\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="exists with different content"):
        list(publish_winners(chosen, study, 1, recipes, effort=0.05))


def test_what_the_gate_refuses_is_reported_and_not_published(
    settings: Make, tmp_path: Path
) -> None:
    chosen = settings(margin=0.0)
    worker = prepared(chosen)
    study = worker.study
    study.enqueue_trial({"structure": "student", "layers": 1, "hidden.1": 4, "weights": "fp32"})
    trial = study.ask()
    worker.space.suggest(trial)
    known = {"candidate": "x", "latency_ratio": 1.0, "agreement": 1.0, "score": 1.0, "low": 0.0}
    for name, value in known.items():
        trial.set_user_attr(name, value)
    study.tell(trial, [500, 1.0, 0.0])
    before = Repository(chosen.policies).variants("cartpole")
    winners = list(publish_winners(chosen, study, 1, tmp_path / "recipes", effort=0.005))
    assert [winner.seed for winner in winners] == [0, 1, 2], "another seed may do better"
    for winner in winners:
        assert "margin is -" in winner.refused
        assert winner.recipe is None
        assert winner.outcome is None
    assert not (tmp_path / "recipes").exists()
    assert Repository(chosen.policies).variants("cartpole") == before


@pytest.mark.slow
def test_workers_share_a_study_and_run_exactly_as_many_trials(settings: Make) -> None:
    seen: list[Snapshot] = []
    study = search(settings(trials=5, workers=2), on_trial=seen.append)
    assert len(finished_trials(study)) == 5
    assert seen[0].ended == 0
    assert seen[-1] == snapshot(study, settings())


def add(study: optuna.Study, values: list[float], **known: Any) -> None:
    figures = {"candidate": "x", "latency_ratio": 1.0, "agreement": 1.0, "score": 1.0, **known}
    study.add_trial(
        create_trial(
            values=values,
            params={"keep.1": 0.5},
            distributions={"keep.1": FloatDistribution(0.0, 1.0)},
            user_attrs={"bytes": values[0], **figures},
        )
    )


def prepared(chosen: SearchSettings) -> Worker:
    """A worker of a study without trials."""
    search(dataclasses.replace(chosen, minutes=1e-9))
    return Worker(chosen)


def test_a_trial_is_judged_by_the_median_of_those_that_are_no_larger(settings: Make) -> None:
    worker = prepared(settings())
    fidelity = Fidelity(
        states=10,
        agreement=0.9,
        near_ties=0,
        agreement_without_ties=0.9,
        regret=0.5,
        q_error_mean=0.1,
        q_error_max=0.1,
    )
    for index in range(MIN_PEERS):
        add(worker.study, [1_000 + index, 10, 0], regret=0.1)
    worker.check_fidelity(worker.study.ask(), fidelity, 1_000)
    trial = worker.study.ask()
    with pytest.raises(optuna.TrialPruned, match=f"median of {MIN_PEERS} trials of no more bytes"):
        worker.check_fidelity(trial, fidelity, 2_000)
    poor = fidelity.model_copy(update={"agreement": 0.5})
    trial = worker.study.ask()
    with pytest.raises(optuna.TrialPruned, match=r"agreement 0\.500 below"):
        worker.check_fidelity(trial, poor, 1_000)
    assert trial.constraints["agreement"] > 0


def test_a_trial_of_known_parameters_is_not_made_again(settings: Make) -> None:
    study = search(settings(trials=2, max_bytes=100_000))
    known = study.trials[-1]
    study.enqueue_trial(known.params)
    study = search(settings(trials=3, max_bytes=100_000))
    again = study.trials[-1]
    assert again.user_attrs["same_as"] == known.number
    assert (again.state, again.values) == (known.state, known.values)
    assert again.user_attrs.get("reason") == known.user_attrs.get("reason")


def test_a_trial_that_meets_an_error_fails_with_its_reason_and_counts(settings: Make) -> None:
    worker = prepared(settings())
    manifest = worker.source.manifest
    actions = [*manifest.actions, "a third"]
    manifest = manifest.model_copy(update={"actions": actions})
    worker.stages.source = dataclasses.replace(worker.source, manifest=manifest)
    worker.run_trial(worker.study.ask())
    (trial,) = worker.study.trials
    assert trial.state is TrialState.FAIL
    assert "expected shape (batch, 3)" in trial.user_attrs["reason"]
    assert [known.number for known in finished_trials(worker.study)] == [0]


def test_a_trial_that_never_ends_is_tried_a_few_times_only(settings: Make) -> None:
    chosen = settings()
    with lock_study(chosen.folder):
        study = open_study(chosen)
        for _ in range(MAX_ATTEMPTS):
            trial = study.ask()
            trial.suggest_categorical("weights", ["fp32"])
            assert requeue_trials(study, chosen.folder) == 1
        assert study.get_trials(states=(TrialState.WAITING,)) == []
        assert len(study.trials) == MAX_ATTEMPTS
        assert finished_trials(study) == []


def test_one_search_at_a_time_holds_a_study(settings: Make) -> None:
    chosen = settings()
    with (
        lock_study(chosen.folder),
        pytest.raises(ConfigError, match="in use by another search"),
    ):
        search(chosen)


def test_a_study_keeps_its_terms(settings: Make) -> None:
    prepared(settings(study="mine"))
    with pytest.raises(InvalidInputError, match=r"--study: .*made with seed 0, received seed 1"):
        search(settings(study="mine", seed=1))


def test_a_study_is_named_after_its_limits(settings: Make) -> None:
    assert settings(robust=True).name == "margin-1_seed-0"
    limited = settings(robust=True, max_bytes=20_000, max_latency_us=100.0, margin=0.02, seed=3)
    assert limited.name == "bytes-20000_latency-100us_margin-0.02_seed-3"
    assert limited.folder == limited.work / "cartpole" / limited.name


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("trials", 0, "1 to 100000"),
        ("workers", 0, "1 to 1024"),
        ("seed", -1, "0 to 2147483647"),
        ("screening_episodes", 1, "2 to 10000"),
        ("gate_episodes", 1, "2 to 10000"),
        ("minutes", 0.0, "more than 0"),
        ("effort", 1.5, "more than 0, at most 1"),
        ("margin", -0.1, "0 to 1"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(
    settings: Make, name: str, value: float, expected: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"{name}: expected {expected}"):
        settings(**{name: value})


def test_a_baseline_no_better_than_random_is_no_scale(settings: Make) -> None:
    repository = Repository(settings().policies)
    source = load_source(repository, "cartpole")
    random = source.manifest.random_policy.model_copy(update={"mean": 1_000.0})
    manifest = source.manifest.model_copy(update={"random_policy": random})
    _, model = repository.read_model("cartpole", "fp32")
    stages = Stages(dataclasses.replace(source, manifest=manifest), model)
    with pytest.raises(CheckFailedError, match="search: the full policy returns 500, random"):
        stages.reference(len(model), settings(screening_episodes=2, gate_episodes=2))


def test_the_baseline_is_as_fast_and_as_good_as_itself(settings: Make) -> None:
    repository = Repository(settings().policies)
    _, model = repository.read_model("cartpole", "fp32")
    stages = Stages(load_source(repository, "cartpole"), model)
    reference = stages.reference(len(model), settings(screening_episodes=2, gate_episodes=2))
    policy = stages.load(model, "again")
    score = stages.score(policy, reference.screening, SCREENING_OFFSET)
    assert (score.mean, score.low, score.loss) == (1.0, 0.0, 0.0)
    assert stages.fidelity(policy).agreement > 0.99
    assert 0.5 < stages.latency_ratio(policy) < 2.0


def test_the_seeds_are_nobody_elses() -> None:
    own = {*SELECTION.seeds(10_000, SCREENING_OFFSET), *SELECTION.seeds(10_000, GATE_OFFSET)}
    assert len(own) == 20_000
    assert own.isdisjoint(SELECTION.seeds(1_000))
    assert own.isdisjoint(SELECTION.seeds(1_000, accept.SEED_OFFSET))
    assert not any(seed in HELD_OUT for seed in own)


def test_a_point_dominates_where_it_is_nowhere_worse_and_somewhere_better() -> None:
    assert dominates((100, 10.0, 0.0), (200, 10.0, 0.0))
    assert not dominates((100, 10.0, 0.1), (200, 10.0, 0.0))
    assert not dominates((100, 10.0, 0.0), (100, 10.0, 0.0))
    # The third digit of a latency is noise.
    assert not dominates((100, 10.01, 0.0), (100, 10.04, 0.0))
    generator = np.random.default_rng(0)
    points = generator.integers(1, 9, (60, 3)).astype(float).tolist()
    kept = [p for p in points if is_nondominated(p, points)]
    assert kept
    for point in points:
        assert point in kept or any(dominates(other, point) for other in kept)


def test_the_ranking_puts_what_held_the_gate_first_and_then_bytes(settings: Make) -> None:
    study = prepared(settings()).study
    add(study, [900, 9, 0.2], low=-0.5)
    add(study, [3_000, 9, 0.0], low=0.0)
    add(study, [2_000, 9, 0.01], low=-0.01)
    add(study, [2_500, 9, 0.3])
    add(study, [950, 8, 0.1])
    assert [found.bytes for found in pareto_front(study)] == [900, 950, 2_000, 3_000]
    assert [found.bytes for found in ranking(study, 0.02)] == [2_000, 3_000, 950, 900]


def test_the_best_is_trained_with_other_seeds_before_what_is_far_worse(settings: Make) -> None:
    study = prepared(settings()).study
    for size, loss in ((900, 0.5), (2_000, 0.02), (2_500, 0.0), (950, 0.3)):
        add(study, [size, 9, loss])
    ranked = ranking(study, 0.02)
    tried = [(found.bytes, seed) for found, seed in attempts(ranked, 0.02, 7, 8)]
    near = [(size, seed) for seed in (7, 8, 9) for size in (2_500, 2_000)]
    assert tried == [*near, (950, 7), (900, 7)]
    assert attempts(ranked, 0.02, 7, 3) == attempts(ranked, 0.02, 7, 8)[:3]
    assert attempts([], 0.02, 7, 3) == []


def test_what_held_the_gate_is_trained_first_though_others_lost_less(settings: Make) -> None:
    study = prepared(settings()).study
    add(study, [900, 9, 0.5], low=-0.9)
    add(study, [2_000, 9, 0.0])
    ranked = ranking(study, 1.0)
    assert [(found.bytes, seed) for found, seed in attempts(ranked, 1.0, 0, 2)] == [
        (900, 0),
        (2_000, 0),
    ]


def test_the_winners_recipe_is_named_by_what_makes_it(settings: Make) -> None:
    chosen = settings(max_bytes=20_000, margin=0.02)
    study = prepared(chosen).study
    add(study, [900, 9, 0.0])
    known = pareto_front(study)[0]
    params = {"structure": "pruned", "keep.1": 0.1, "keep.2": 0.1, "weights": "fp32"}
    found = dataclasses.replace(known, params=params)
    source = load_source(Repository(chosen.policies), "cartpole")
    space = SampledSpace(source, chosen.seed, 1.0)
    recipe, text = winning_recipe(chosen, space, found, 1.0, 0)
    assert recipe.accept.margin == 0.02
    assert recipe.accept.max_bytes == 20_000
    assert recipe.accept.episodes == chosen.gate_episodes
    assert text.startswith("# Found by slimq search cartpole, study bytes-20000_")
    assert winning_recipe(chosen, space, found, 1.0, 0)[0].name == recipe.name
    assert winning_recipe(chosen, space, found, 0.5, 0)[0].name != recipe.name
    assert winning_recipe(chosen, space, found, 1.0, 1)[0].name != recipe.name


def test_conditions_end_at_the_first_that_is_lost_and_the_loss_is_the_largest(
    settings: Make,
) -> None:
    """The smallest shipped variant plays as well undisturbed, but not late observations."""
    worker = prepared(settings(robust=True, margin=0.02, gate_episodes=16))
    costs = [known.seconds for known in worker.reference.conditions]
    assert len(costs) == 5
    assert costs == sorted(costs)
    assert worker.reference.final_condition_episodes >= 100
    by_name = {known.condition.name: known for known in worker.reference.conditions}
    chosen = tuple(
        by_name[name].model_copy(update={"telling": 0}) for name in ("noise", "delayed", "sticky")
    )
    worker.reference = worker.reference.model_copy(update={"conditions": chosen})
    _, model = Repository(worker.settings.policies).read_model("cartpole", "micro")
    trial = worker.study.ask()
    figures = worker._play(trial, worker.stages.load(model, "micro"), 432, 1.0)
    known = trial.user_attrs
    assert (known["passed"], known["lost"]) == (False, "delayed=1")
    assert known["low"] == 0.0
    assert list(known["condition_lows"]) == list(known["disturbed"]) == ["noise=0.01", "delayed=1"]
    assert figures.loss > CONDITION_MARGIN
    trial.set_user_attr("candidate", "micro")
    trial.set_user_attr("latency_ratio", 1.0)
    trial.set_user_attr("agreement", 1.0)
    worker.study.tell(trial, figures.values)
    (found,) = pareto_front(worker.study)
    assert (found.lost, found.acceptable, found.passed(0.02)) == ("delayed=1", False, False)


def test_the_full_policys_own_model_keeps_every_condition(settings: Make) -> None:
    worker = prepared(settings(robust=True, margin=0.02))
    _, model = Repository(worker.settings.policies).read_model("cartpole", "fp32")
    trial = worker.study.ask()
    figures = worker._play(trial, worker.stages.load(model, "copy"), 9, 1.0)
    assert (figures.loss, trial.user_attrs["passed"]) == (0.0, True)
    assert set(trial.user_attrs["condition_lows"].values()) == {0.0}
    assert len(trial.user_attrs["disturbed"]) == len(worker.reference.deciding)


def test_a_condition_is_lost_at_its_bound_unless_the_episodes_are_too_few_to_tell() -> None:
    condition = next(iter(standard_conditions(OBSERVATIONS["mlp"])))

    def kept(mean: float, low: float, telling: int) -> bool:
        known = ConditionReference(
            condition=condition, returns=(1.0,) * 30, loss=0.0, seconds=1.0, telling=telling
        )
        return keeps_condition(PairedDifference(mean, low, 0.1, CONDITION_MARGIN, 30), known)

    assert kept(0.0, -0.05, telling=0)
    assert not kept(0.0, -0.06, telling=30)
    assert kept(-0.05, -0.2, telling=31)
    assert not kept(-0.06, -0.2, telling=31)


def test_simultaneous_bounds_need_more_episodes() -> None:
    returns = [400.0, 500.0] * 20
    single = telling_episodes(returns, 480.0, 0.05)
    assert single == telling_episodes(returns, 480.0, 0.05, 0.95)
    assert 1.3 * single < telling_episodes(returns, 480.0, 0.05, 0.99) < 2 * single


def test_without_conditions_a_study_has_its_own_name_and_none_are_played(settings: Make) -> None:
    chosen = settings()
    assert chosen.name == "undisturbed_margin-1_seed-0"
    assert dataclasses.replace(chosen, robust=True).name == "margin-1_seed-0"
    assert prepared(chosen).reference.conditions == ()


def test_a_winners_gate_plays_the_conditions_that_the_search_did(settings: Make) -> None:
    chosen = settings(margin=0.02, robust=True)
    study = prepared(chosen).study
    add(study, [900, 9, 0.0])
    params = {"structure": "pruned", "keep.1": 0.1, "keep.2": 0.1, "weights": "fp32"}
    found = dataclasses.replace(pareto_front(study)[0], params=params)
    space = SampledSpace(load_source(Repository(chosen.policies), "cartpole"), chosen.seed, 1.0)
    recipe, _ = winning_recipe(chosen, space, found, 1.0, 0, condition_episodes=120)
    assert (recipe.accept.robust, recipe.accept.condition_episodes) == (True, 120)
    assert not winning_recipe(chosen, space, found, 1.0, 0)[0].accept.robust
