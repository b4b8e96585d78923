"""Distillation in units of the teacher's own Q-values."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from network_kinds import KINDS, make_kind
from slimq.networks.grids import Codebook, LinearLevels, Mask, PowerOfTwoLevels
from slimq.networks.qnetwork import QNetwork, output_layers
from slimq_compression.network.distillation import DistillationParams, distil
from slimq_compression.network.q_scale import QScale, Units, measure_scale, scale_outputs
from slimq_compression.network.straight_through import attach_grids
from slimq_compression.passes import student

TRAINING = {"rounds": 2, "states": 100, "updates": 30, "learning_rate": 5e-3}


def test_the_scale_is_the_median_gap_and_the_deviation() -> None:
    q_values = np.array([[0.0, 1.0], [2.0, 4.0], [1.0, 9.0]], np.float32)
    scale = measure_scale(q_values, Units.TEACHER)
    assert scale.gap == 2.0
    assert scale.spread == pytest.approx(float(q_values.std(axis=0).mean()))
    assert scale.unit == 2.0
    assert measure_scale(q_values, Units.ABSOLUTE) == QScale(1.0, 1.0)


@pytest.mark.parametrize(
    ("q_values", "gap"),
    [
        ([[1.0, 1.0], [1.0, 1.0]], 1.0),
        ([[0.0, 0.0], [1.0, 1.0], [2.0, 5.0]], 1.0),
    ],
)
def test_equal_actions_leave_a_scale_to_divide_by(q_values: list[list[float]], gap: float) -> None:
    assert measure_scale(np.array(q_values, np.float32), Units.TEACHER).gap == gap


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_scaled_exactly_and_back(kind: str) -> None:
    network = make_kind(kind)
    scaled = copy.deepcopy(network)
    observations = torch.zeros(3, *network.spec.observation_shape)
    if network.spec.observation_dtype == "uint8":
        observations = observations.to(torch.uint8)
    scale_outputs(scaled, 0.25)
    with torch.no_grad():
        before = network(observations)
        assert torch.equal(scaled(observations), before * 0.25)
        scale_outputs(scaled, 4.0)
        assert torch.equal(scaled(observations), before)


@pytest.mark.parametrize(
    "grid", [LinearLevels(7), PowerOfTwoLevels(4), Codebook(3), Mask(0.5)], ids=lambda g: type(g)
)
def test_grids_follow_the_weights(grid: object, make_network) -> None:
    network: QNetwork = make_network("mlp")
    attach_grids(network, "head", (grid,))  # type: ignore[arg-type]
    scale_outputs(network, 8.0)
    weight = output_layers(network)["head"].weight.detach()
    (moved,) = network.grids["head"]
    assert torch.equal(moved.project(weight), weight)


@pytest.mark.parametrize("factor", [2.0**-13, 2.0**10])
def test_the_unit_of_reward_changes_nothing_but_the_unit(
    factor: float, make_network, make_context
) -> None:
    teacher = make_network("mlp")
    context = make_context("mlp", teacher)
    other = copy.deepcopy(teacher)
    scale_outputs(other, factor)
    scaled = dataclasses.replace(
        make_context("mlp", other),
        calibration=dataclasses.replace(
            context.calibration, q_values=context.calibration.q_values * np.float32(factor)
        ),
    )
    params = DistillationParams.model_validate(TRAINING)
    trained = []
    for chosen, given in ((context, teacher), (scaled, other)):
        start = student.apply(given, student.Params(hidden=(8,)), chosen)
        trained.append(distil(start, params, chosen))
    states = torch.from_numpy(context.states)
    with torch.no_grad():
        one, two = (network(states) for network in trained)
    torch.testing.assert_close(two / factor, one, rtol=1e-4, atol=1e-5)


def test_absolute_units_are_left_out_of_what_a_recipe_records() -> None:
    assert "units" not in DistillationParams(units=Units.ABSOLUTE).model_dump(mode="json")
    assert DistillationParams().model_dump(mode="json")["units"] == "teacher"
