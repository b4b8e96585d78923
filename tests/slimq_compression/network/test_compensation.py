"""Rounding in which later weights make up for the errors of earlier ones."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from network_kinds import KINDS, draw_observations, layout_of, make_kind
from slimq.core.calibration import CalibrationSet
from slimq.core.errors import InvalidInputError
from slimq.networks.grids import LinearLevels
from slimq.networks.qnetwork import count_parameters, named_layers
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.collector import RecordedCollector
from slimq_compression.context import PassContext
from slimq_compression.network.compensation import round_compensated
from slimq_compression.passes.prune_weights import Params as Pruning
from slimq_compression.passes.prune_weights import apply as prune
from slimq_compression.passes.quantize_weights import Params, apply


def context_of(kind: str) -> PassContext:
    network, states = make_kind(kind), draw_observations(kind, 256)
    indices = np.arange(256, dtype=np.int32)[:, None]
    calibration = CalibrationSet(states, indices, TorchPolicy(network)(states))
    collector, parameters = (
        RecordedCollector(layout_of(kind), calibration),
        count_parameters(network),
    )
    return PassContext(network, layout_of(kind), calibration, collector, parameters)


def test_q_values_are_nearer_than_with_the_nearest_levels() -> None:
    """In most kinds of networks; it minimizes the error of layers, not of Q-values."""
    ratios = []
    for kind in KINDS:
        context = context_of(kind)
        errors = []
        for rounding in ("nearest", "compensated"):
            made = apply(context.teacher, Params(bits=4, rounding=rounding), context)
            for name, layer in named_layers(made).items():
                (levels,) = made.grids[name]
                assert torch.equal(levels.project(layer.weight.detach()), layer.weight.detach())
            q_values = TorchPolicy(made)(context.states)
            errors.append(float(np.square(q_values - context.calibration.q_values).mean()))
        ratios.append(errors[1] / errors[0])
    assert np.median(ratios) < 0.9, ratios
    assert max(ratios) < 2.0, ratios


@pytest.mark.parametrize("block", [None, 16])
def test_a_dense_layer_is_better_for_its_inputs_than_any_rounding_of_single_weights(
    block: int | None,
) -> None:
    torch.manual_seed(0)
    network = make_kind("normalized")
    layer = list(named_layers(network).values())[1]
    assert isinstance(layer, nn.Linear)
    states = draw_observations("normalized", 256)
    levels = LinearLevels(3, block=block)
    levels.advance(layer.weight.detach(), 0.0)
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda _m, given, _out: seen.append(given[0]))
    with torch.no_grad():
        network(torch.from_numpy(states))
    hook.remove()
    wanted = layer.weight.detach().clone()
    nearest = levels.project(wanted)
    round_compensated(network, layer, levels, states)
    inputs = seen[0]

    def error(weight: torch.Tensor) -> float:
        return float((inputs @ (weight - wanted).T).square().mean())

    assert error(layer.weight.detach()) < error(nearest)


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    network = make_kind("normalized")
    first = next(iter(named_layers(network).values()))
    states = np.zeros_like(draw_observations("normalized", 32))
    levels = LinearLevels(7)
    levels.advance(first.weight.detach(), 0.0)
    before = copy.deepcopy(first.weight.detach())
    round_compensated(network, first, levels, states)
    assert torch.isfinite(first.weight).all()
    assert (first.weight - before).abs().max() <= levels.scale.max()


def test_sparse_layers_and_other_levels_are_refused_by_name() -> None:
    context = context_of("normalized")
    pruned = prune(context.teacher, Pruning(sparsity=0.5), context)
    with pytest.raises(InvalidInputError, match=r"quantize_weights.rounding: .* a sparse layer"):
        apply(pruned, Params(rounding="compensated"), context)
    with pytest.raises(ValueError, match="requires form = linear"):
        Params(form="codebook", rounding="compensated")
