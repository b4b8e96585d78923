"""Biases make up for the mean error of rounded weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from network_kinds import KINDS, draw_observations, make_kind
from slimq.networks.qnetwork import named_layers
from slimq_compression.network.bias_matching import match_means
from slimq_compression.network.gradients import recording
from slimq_compression.passes.quantize_weights import Params, apply


@pytest.mark.parametrize("kind", KINDS)
def test_every_channel_keeps_its_mean(kind: str) -> None:
    network, states = make_kind(kind), draw_observations(kind, 96)
    rounded = copy.deepcopy(network)
    with torch.no_grad():
        for layer in named_layers(rounded).values():
            layer.weight.copy_(layer.weight.mul(8).round().div(8))
    before = {name: layer.weight.clone() for name, layer in named_layers(rounded).items()}
    match_means(rounded, network, states)
    for name, layer in named_layers(rounded).items():
        assert torch.equal(layer.weight, before[name])
        means = []
        for own, seen in ((named_layers(network)[name], network), (layer, rounded)):
            with torch.no_grad(), recording([own]) as recorded:
                seen(torch.from_numpy(states))
            means.append(recorded[own][1].transpose(0, 1).flatten(1).mean(dim=1))
        torch.testing.assert_close(means[1], means[0], rtol=1e-3, atol=1e-4)


def test_rounded_weights_keep_more_decisions_with_it(make_network, make_context) -> None:
    network = make_network("mlp")
    context = make_context("mlp", network, states=256)
    errors = []
    for corrected in (False, True):
        made = apply(network, Params(bits=3, correct_bias=corrected), context)
        with torch.no_grad():
            q_values = made(torch.from_numpy(context.states)).numpy()
        errors.append(np.abs(q_values - context.calibration.q_values).mean())
    assert errors[1] < errors[0]
