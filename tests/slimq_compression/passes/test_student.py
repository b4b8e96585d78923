from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from slimq.core.errors import InvalidInputError
from slimq.networks.architectures import mobilenet
from slimq.networks.checkpoint import save_network
from slimq.networks.layers import ConvLayer
from slimq.networks.qnetwork import QNetwork, count_parameters, named_layers
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.passes import finetune
from slimq_compression.passes.student import Initial, Params, apply, student_spec
from slimq_compression.recipe import load_recipe

RECIPES = Path(__file__).parents[3] / "recipes" / "pong"
BLOCKS = [
    {"channels": 8, "kernel": 4, "stride": 2, "batch_norm": True},
    {
        "kind": "residual",
        "layers": [
            {"channels": 16, "kernel": 1, "batch_norm": True},
            {"channels": 16, "kernel": 3, "padding": 1, "groups": 16, "batch_norm": True},
            {"channels": 8, "kernel": 1, "batch_norm": True, "activation": False},
        ],
    },
    {"kind": "shuffle", "groups": 2},
    {"channels": 4, "kernel": 1, "groups": 2},
]


def test_a_student_has_the_layers_that_were_named(make_network, make_context) -> None:
    teacher = make_network("conv")
    params = Params.model_validate({"convolutions": BLOCKS, "hidden": [7]})
    student = apply(teacher, params, make_context("conv", teacher))
    assert [layer.kind for layer in student.spec.body.convolutions] == [
        "conv",
        "residual",
        "shuffle",
        "conv",
    ]
    assert student.spec.body.hidden == (7,)
    assert student.spec.observation_shape == teacher.spec.observation_shape
    assert student.spec.actions == teacher.spec.actions


def test_what_is_not_named_stays_as_it_was(make_network, make_context) -> None:
    teacher = make_network("conv")
    context = make_context("conv", teacher)
    other_hidden = apply(teacher, Params(hidden=(5,)), context).spec.body
    assert other_hidden.convolutions == teacher.spec.body.convolutions
    assert other_hidden.hidden == (5,)
    layers = (ConvLayer(channels=3, kernel=4),)
    other_layers = apply(teacher, Params(convolutions=layers), context).spec.body
    assert other_layers.convolutions == layers
    assert other_layers.hidden == teacher.spec.body.hidden


def test_a_named_architecture_takes_its_width_and_other_dense_layers(
    make_network, make_context
) -> None:
    teacher = make_network("nature")
    context = make_context("nature", teacher, states=4)
    student = apply(teacher, Params(architecture="mobilenet", width=0.5, hidden=(24,)), context)
    assert student.spec.body.convolutions == mobilenet(0.5).convolutions
    assert student.spec.body.hidden == (24,)
    assert apply(teacher, Params(architecture="mobilenet"), context).spec.body == mobilenet()


def test_nothing_of_the_given_network_stays_and_other_generators_are_left_alone(
    make_network, make_context
) -> None:
    teacher = make_network("mlp")
    before = torch.get_rng_state()
    students = [
        apply(teacher, Params(hidden=(16, 12)), make_context("mlp", teacher, seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert students[0].spec == teacher.spec
    first, again, other = (save_network(student) for student in students)
    assert first == again
    assert len({first, other, save_network(teacher)}) == 3


@pytest.mark.parametrize(
    ("kind", "values", "place", "problem"),
    [
        ("mlp", {"architecture": "mobilenet"}, "architecture", "conv network takes"),
        ("mlp", {"convolutions": [{"channels": 4, "kernel": 2}]}, "convolutions", "network takes"),
        ("conv", {"architecture": "nature"}, "architecture", r"convolutions\[1\].kernel: expected"),
        (
            "conv",
            {"convolutions": [{"channels": 4, "kernel": 17}]},
            "convolutions",
            r"convolutions\[0\].kernel: expected at most 16",
        ),
        (
            "conv",
            {"convolutions": [{"channels": 4, "kernel": 3, "groups": 3}]},
            "convolutions",
            r"convolutions\[0\].groups: must divide the 2 input channels",
        ),
    ],
)
def test_layers_that_do_not_fit_the_observations_are_refused_by_name(
    make_network, make_context, kind: str, values: dict[str, object], place: str, problem: str
) -> None:
    teacher = make_network(kind)
    params = Params.model_validate(values)
    with pytest.raises(InvalidInputError, match=problem) as caught:
        apply(teacher, params, make_context(kind, teacher))
    assert caught.value.field == f"student.{place}"
    assert caught.value.expected.startswith("layers that fit observations of")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({}, "give share, or at least one of architecture, convolutions and hidden"),
        ({"width": 0.5, "hidden": [4]}, "width requires architecture"),
        ({"window": {}, "hidden": [4]}, "window and background require convolutions"),
        ({"background": 87, "hidden": [4]}, "window and background require convolutions"),
        (
            {"architecture": "nature", "convolutions": BLOCKS},
            "give architecture or convolutions, not both",
        ),
    ],
)
def test_parameters_that_say_nothing_or_contradict_are_refused(
    values: dict[str, object], problem: str
) -> None:
    with pytest.raises(ValidationError, match=problem):
        Params.model_validate(values)


def test_a_student_with_batch_normalization_learns_from_the_teacher(
    make_network, make_context, make_states
) -> None:
    teacher = make_network("conv")
    context = make_context("conv", teacher)
    values = {"convolutions": BLOCKS, "initial": "data"}
    student = apply(teacher, Params.model_validate(values), context)
    params = finetune.Params(loss="mse", rounds=2, states=100, updates=40, learning_rate=1e-2)
    states = make_states("conv", 64, seed=99)
    target = TorchPolicy(teacher)(states)
    errors = [
        np.abs(TorchPolicy(network)(states) - target).mean()
        for network in (student, finetune.apply(student, params, context))
    ]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mobilenet-undisturbed", 114_334),
        ("shufflenet-undisturbed", 119_950),
        ("distilled", 61_174),
        ("dense-control", 207_440),
        ("fastest", 23_158),
        ("tiny", 23_158),
    ],
)
def test_the_students_of_the_pong_recipes_have_the_sizes_that_they_say(
    make_network, make_context, name: str, parameters: int
) -> None:
    recipe = load_recipe(RECIPES / f"{name}.toml")
    assert recipe.name == name
    first = recipe.network[0]
    assert first.name == "student"
    teacher = make_network("nature")
    student = apply(teacher, first.params, make_context("nature", teacher, states=4))
    assert count_parameters(student) == parameters
    text = (RECIPES / f"{name}.toml").read_text(encoding="utf-8")
    assert f"{parameters:,} parameters" in text
    assert tomllib.loads(text)["accept"]["max_bytes"] < 900_000


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_units_start_with_mean_zero_and_variance_one_and_q_values_at_the_teachers_level(
    make_network, make_context, kind: str
) -> None:
    teacher = make_network(kind)
    context = make_context(kind, teacher, states=256)
    student = apply(teacher, Params(hidden=(8,)), context)
    seen: list[torch.Tensor] = []
    for layer in named_layers(student).values():
        layer.register_forward_hook(lambda _m, _g, output: seen.append(output.transpose(0, 1)))
    with torch.no_grad():
        q_values = student(torch.from_numpy(context.states))
    for outputs in seen[:-1]:
        units = outputs.flatten(1)
        assert torch.allclose(units.mean(dim=1), torch.zeros(len(units)), atol=1e-4)
        assert torch.allclose(units.std(dim=1), torch.ones(len(units)), atol=1e-3)
    wanted = context.calibration.q_values.mean(axis=0)
    assert np.allclose(q_values.mean(dim=0), wanted, atol=1e-4)


def test_random_weights_are_left_as_they_were_drawn(make_network, make_context) -> None:
    teacher = make_network("mlp")
    context = make_context("mlp", teacher)
    params = Params(hidden=(8,), initial=Initial.RANDOM)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        drawn = QNetwork(student_spec(teacher.spec, params))
    assert torch.equal(apply(teacher, params, context).head.weight, drawn.head.weight)


def test_fitting_to_disturbed_states_makes_a_background_a_range(make_network, make_context) -> None:
    """With one exact value behind all that moves, a unit's weights grow until a level matters."""
    teacher = make_network("conv")
    values = {"convolutions": BLOCKS[:1], "hidden": [7], "initial": "data"}
    disturbed = {**values, "disturb": {"noise": 0, "brightness": 60, "probability": 1.0}}
    plain, steady = (
        apply(teacher, Params.model_validate(one), make_context("conv", teacher))
        for one in (values, disturbed)
    )
    states = torch.from_numpy(make_context("conv", teacher).states)
    brighter = (states.int() + 20).clamp(max=255).to(torch.uint8)
    moved = [
        float(
            (
                network.features[0](network.prepare(brighter))
                - network.features[0](network.prepare(states))
            )
            .abs()
            .mean()
            .detach()
        )
        for network in (plain, steady)
    ]
    assert moved[1] < 0.9 * moved[0]
    assert "disturb" not in Params.model_validate(values).model_dump(mode="json")
    assert Params.model_validate(disturbed).model_dump(mode="json")["disturb"]["brightness"] == 60
