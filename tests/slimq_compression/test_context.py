from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from slimq_compression.context import silent


def test_generators_start_from_the_steps_seed(make_network, make_context) -> None:
    network = make_network("mlp")
    first, again, other = (make_context("mlp", network, seed) for seed in (1, 1, 2))
    assert first.generator.random() == again.generator.random() != other.generator.random()
    drawn = [torch.rand(1, generator=c.torch_generator).item() for c in (first, again, other)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_states_are_those_of_the_calibration_set(make_network, make_context, make_states) -> None:
    for kind in ("mlp", "conv"):
        context = make_context(kind, make_network(kind), states=20)
        np.testing.assert_array_equal(context.states, make_states(kind, 20))


def test_a_context_cannot_be_changed(make_network, make_context) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_context("mlp", make_network("mlp")).seed = 5


def test_the_silent_bar_takes_all_calls_and_prints_nothing(capfd) -> None:
    with silent("work", 3, "step") as bar:
        bar.update(2)
        bar.set_postfix_str("note", refresh=False)
    assert capfd.readouterr() == ("", "")
