"""What a search may choose, and the recipes that come of it."""

from __future__ import annotations

import tomllib
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FixedTrial

from slimq.core.calibration import CalibrationSet
from slimq.core.errors import ConfigError
from slimq.networks.layers import Window
from slimq.networks.qnetwork import QNetwork
from slimq.networks.specification import NATURE, MLPSpec, QNetworkSpec
from slimq_compression.catalogue import CATALOGUE
from slimq_compression.passes import student
from slimq_compression.recipe import parse_recipe
from slimq_compression.search import space
from slimq_compression.search.space import (
    BITS,
    FULL,
    SECOND_EFFORT,
    Candidate,
    Offer,
    background_of,
    make_recipe,
    suggest,
)

NETWORKS = {
    "conv": QNetworkSpec(
        body=NATURE, observation_shape=(4, 84, 84), observation_dtype="uint8", actions=6
    ),
    "mlp": QNetworkSpec(
        body=MLPSpec(hidden=(256, 256)),
        observation_shape=(4,),
        observation_dtype="float32",
        actions=2,
    ),
}

BACKGROUND = 87


def draw(kind: str, count: int = 150) -> list[tuple[optuna.trial.FrozenTrial, Candidate]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = []
    for _ in range(count):
        trial = study.ask()
        candidate = suggest(trial, NETWORKS[kind], Offer.current(), BACKGROUND)
        study.tell(trial, 0.0)
        drawn.append((study.trials[trial.number], candidate))
    return drawn


def make(candidate: Candidate, effort: float = 0.1, **changes: Any) -> Any:
    options: dict[str, Any] = {"name": "found-x", "seed": 3, "accept": {"margin": 0.02}}
    return make_recipe(candidate, Offer.current(), effort=effort, **{**options, **changes})


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize("kind", ["conv", "mlp"])
def test_every_draw_is_a_recipe_whose_student_fits_the_observations(kind: str) -> None:
    structures, weights = set(), set()
    for _, candidate in draw(kind):
        recipe, _ = make(candidate)
        structures.add(candidate.structure)
        weights.add(candidate.weights)
        if candidate.structure == "student":
            spec = student.student_spec(NETWORKS[kind], recipe.network[0].params)
            assert spec.body.kind == kind
            assert spec.body.hidden == candidate.hidden
            if kind == "conv":
                assert spec.body.background == BACKGROUND
                window = spec.body.window or Window()
                assert len(range(*(window.channels or (0, 4)))) >= 2
        else:
            assert len(candidate.keep) == (4 if kind == "conv" else 2)
    assert structures == set(Offer.current().structures)
    assert weights == set(Offer.current().weights)


@pytest.mark.parametrize(("strides", "last"), [((4, 1, 1), 3), ((8, 2, 2), 2)])
def test_the_smallest_and_the_largest_convolutions_fit_frames_of_84(
    strides: Any, last: int
) -> None:
    conv = [
        ("conv1.stride", strides[0]),
        ("conv2.stride", strides[1]),
        ("conv3.stride", strides[2]),
    ]
    chosen = {"structure": "student", "weights": "fp32", "convolutions": 3, "hidden.1": 128}
    chosen |= {f"conv{index}.channels": 32 for index in (1, 2, 3)} | dict(conv)
    chosen |= {"window.frames": 2, "window.top": 16, "window.bottom": 8}
    candidate = suggest(
        FixedTrial({**chosen, "conv2.kernel": 4}), NETWORKS["conv"], Offer.current()
    )
    recipe, _ = make(candidate)
    QNetwork(student.student_spec(NETWORKS["conv"], recipe.network[0].params))
    layers = "32k8s{} 32k4s{} 32k{}s{}".format(*strides[:2], last, strides[2])
    expected = f"student channels 2-4, rows 16-76, {layers}, 128; fp32"
    assert candidate.describe() == expected


@pytest.mark.parametrize("kind", ["conv", "mlp"])
def test_a_name_has_the_same_range_in_every_trial(kind: str) -> None:
    ranges: dict[str, Any] = {}
    for trial, _ in draw(kind):
        for name, distribution in trial.distributions.items():
            assert ranges.setdefault(name, distribution) == distribution


def test_a_trials_parameters_give_the_same_candidate_again() -> None:
    for trial, candidate in draw("conv", 20):
        again = suggest(FixedTrial(trial.params), NETWORKS["conv"], Offer.current(), BACKGROUND)
        assert again == candidate


def test_the_background_is_the_most_frequent_pixel_and_vectors_have_none() -> None:
    frames = np.full((3, 5, 5), 200, np.uint8)
    frames[:2] = 87
    indices, q_values = np.zeros((1, 2), np.int32), np.zeros((1, 3), np.float32)
    assert background_of(CalibrationSet(frames, indices, q_values)) == 87
    vectors = np.ones((3, 4), np.float32)
    assert background_of(CalibrationSet(vectors, indices[:, :1], q_values)) == 0


def test_what_the_catalogue_lacks_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = {"student", "quantize_int8", "store_weights"}
    left = {name: row for name, row in CATALOGUE.items() if name not in lacking}
    monkeypatch.setattr(space, "CATALOGUE", left)  # the table itself has an order to keep
    assert Offer.current().structures == ("pruned",)
    assert Offer.current().weights == ("fp32",)


def test_without_effort_nothing_is_trained() -> None:
    for _, candidate in draw("mlp", 20):
        recipe, _ = make(candidate, effort=0)
        assert "finetune" not in [step.name for step in recipe.network]


def test_effort_is_the_share_of_updates_and_of_play() -> None:
    for training in FULL.values():
        part = training.scaled(0.25)
        assert part.rounds < training.rounds
        for whole, share in ((training.updates, part.updates), (training.states, part.states)):
            assert share * part.rounds == pytest.approx(0.25 * whole * training.rounds, rel=0.01)
        assert training.scaled(1.0) == training


def test_students_are_trained_under_conditions_and_pruned_networks_as_before() -> None:
    for structure, conditions in (("student", ["standard"]), ("pruned", None)):
        for _, candidate in draw("mlp", 20):
            if candidate.structure != structure:
                continue
            recipe, text = make(candidate, effort=1.0)
            training = next(step for step in recipe.network if step.name == "finetune")
            recorded = training.params.model_dump(mode="json")
            assert recorded.get("conditions") == conditions
            assert ("disturb" in recorded) == (conditions is not None)
            assert parse_recipe(text, "again").fingerprint == recipe.fingerprint


def test_weights_on_levels_are_trained_once_more_and_then_stored() -> None:
    if "linear" not in Offer.current().weights:
        pytest.skip("the catalogue has no store_weights")
    for form, (low, _) in BITS.items():
        candidate = Candidate("mlp", "student", (), (), (16,), form, low)
        recipe, _ = make(candidate, effort=1.0)
        names = [step.name for step in recipe.network]
        assert names == ["student", "finetune", "quantize_weights", "finetune"]
        assert [step.name for step in recipe.graph] == ["store_weights"]
        assert recipe.network[2].params.model_dump()["bits"] == low
        once, again = (recipe.network[index].params.model_dump() for index in (1, 3))
        total = once["updates"] * once["rounds"]
        assert again["updates"] * again["rounds"] == pytest.approx(SECOND_EFFORT * total, rel=0.02)
        assert candidate.describe() == f"student 16; {form} {low} bits"


@pytest.mark.parametrize(
    ("form", "bits", "levels", "trained"),
    [
        ("linear", 5, [("linear", 8), ("linear", 6), ("linear", 5)], 1),
        ("codebook", 3, [("linear", 8), ("codebook", 6), ("codebook", 3)], 2),
        ("power-of-two", 4, [("linear", 8), ("power-of-two", 4)], 2),
        ("linear", 7, [("linear", 8), ("linear", 7)], 1),
    ],
)
def test_students_of_frames_keep_bits_where_there_are_few_weights(
    form: str, bits: int, levels: list[tuple[str, int]], trained: int
) -> None:
    convolutions = ({"channels": 8, "kernel": 8, "stride": 6},)
    recipe, _ = make(Candidate("conv", "student", (), convolutions, (16,), form, bits), effort=1.0)
    steps = [step.params.model_dump() for step in recipe.network if step.name == "quantize_weights"]
    assert [(step["form"], step["bits"]) for step in steps] == levels
    assert steps[0]["layers"] == ("head",)
    assert steps[-1]["layers"] is None
    assert [step.name for step in recipe.network].count("finetune") == trained


def test_the_text_holds_the_recipe_and_its_gate() -> None:
    candidate = Candidate("mlp", "pruned", (0.25, 0.5), (), (), "int8", None)
    recipe, text = make(candidate, accept={"margin": 0.02, "max_bytes": 20_000})
    values = tomllib.loads(text)
    assert values["name"] == recipe.name == "found-x"
    assert values["seed"] == recipe.seed == 3
    assert values["network"][0] == {"pass": "prune_channels", "keep": [0.25, 0.5]}
    assert values["graph"] == [{"pass": "quantize_int8"}]
    assert recipe.accept.max_bytes == 20_000
    assert recipe.description == "Found: pruned keep 0.25 0.5; int8."


def test_tables_within_a_step_are_in_the_text_as_the_recipe_has_them() -> None:
    convolutions = ({"channels": 8, "kernel": 8, "stride": 6},)
    window = {"channels": (2, 4), "rows": (10, 80)}
    candidate = Candidate(
        "conv", "student", (), convolutions, (16,), "fp32", None, window=window, background=87
    )
    _, text = make(candidate)
    step = tomllib.loads(text)["network"][0]
    assert step["window"] == {"channels": [2, 4], "rows": [10, 80]}
    assert (step["convolutions"], step["background"]) == ([*convolutions], 87)


def test_a_gate_that_asks_for_nothing_is_refused() -> None:
    candidate = Candidate("mlp", "pruned", (0.25, 0.5), (), (), "fp32", None)
    with pytest.raises(ConfigError, match=r"found-x\.toml: accept: "):
        make(candidate, accept={"episodes": 3})
