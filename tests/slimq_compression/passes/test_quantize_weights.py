from __future__ import annotations

import pytest
import torch

from slimq.core.errors import InvalidInputError
from slimq.networks.grids import Mask
from slimq.networks.qnetwork import named_layers
from slimq_compression.network.straight_through import attach_grids
from slimq_compression.passes.quantize_weights import Form, Params, apply


@pytest.mark.parametrize(
    ("params", "most"),
    [
        (Params(form=Form.LINEAR, bits=4), 15),
        (Params(form=Form.LINEAR, bits=2), 3),
        (Params(form=Form.POWER_OF_TWO, bits=4), 15),
    ],
)
def test_each_output_channel_has_no_more_levels_than_codes(
    make_network, make_context, params: Params, most: int
) -> None:
    network = make_network("conv")
    quantized = apply(network, params, make_context("conv", network))
    for name, layer in named_layers(quantized).items():
        assert all(len(row.unique()) <= most for row in layer.weight.detach()), name


@pytest.mark.parametrize("bits", [2, 4])
def test_a_codebook_has_as_many_values_as_its_codes_for_a_whole_layer(
    make_network, make_context, bits: int
) -> None:
    network = make_network("conv")
    quantized = apply(network, Params(form=Form.CODEBOOK, bits=bits), make_context("conv", network))
    for name, layer in named_layers(quantized).items():
        assert len(layer.weight.detach().unique()) <= 2**bits, name


def test_a_pruned_layer_keeps_its_zeros_which_take_one_of_the_codes(
    make_network, make_context
) -> None:
    network = make_network("conv")
    attach_grids(network, "dense1", (Mask(0.5),))
    quantized = apply(network, Params(form=Form.CODEBOOK, bits=2), make_context("conv", network))
    before, after = (named_layers(n)["dense1"].weight.detach() for n in (network, quantized))
    assert torch.equal(before == 0, after == 0)
    assert len(after[after != 0].unique()) == 3


def test_layers_can_be_given_different_precision(make_network, make_context) -> None:
    network, context = make_network("conv"), make_context("conv", make_network("conv"))
    first = apply(network, Params(bits=8, layers=("conv1",)), context)
    mixed = apply(first, Params(bits=3), context)
    layers = named_layers(mixed)
    assert len(layers["conv1"].weight[0].unique()) > 7
    assert len(layers["dense1"].weight[0].unique()) <= 7


def weights_of(network) -> list[list[float]]:
    return [layer.weight.flatten().tolist() for layer in named_layers(network).values()]


def test_one_table_of_bits_does_what_a_step_for_each_layer_does(make_network, make_context) -> None:
    network, context = make_network("conv"), make_context("conv", make_network("conv"))
    steps = network
    for layers, bits in ((("conv1",), 7), (("conv2",), 6), (("head",), 8), (None, 5)):
        steps = apply(steps, Params(bits=bits, layers=layers), context)
    table = {"first": 7, "convolutions": 6, "head": 8, "dense": 5}
    assert weights_of(apply(network, Params(bits=table), context)) == weights_of(steps)


def test_a_table_of_bits_covers_whatever_the_network_is_made_of(make_network, make_context) -> None:
    network, context = make_network("mlp"), make_context("mlp", make_network("mlp"))
    quantized = apply(network, Params(bits={"convolutions": 6, "head": 8, "dense": 3}), context)
    for name, layer in named_layers(quantized).items():
        most = 255 if name == "head" else 7
        assert all(len(row.unique()) <= most for row in layer.weight.detach()), name
    rest = Params(bits={"head": 8, "default": 3})
    assert weights_of(apply(network, rest, context)) == weights_of(quantized)


def test_layers_without_bits_in_the_table_are_named(make_network, make_context) -> None:
    network, context = make_network("conv"), make_context("conv", make_network("conv"))
    message = (
        r"quantize_weights\.bits: expected a value for each of the layers not quantized yet, or "
        r"'default' for the others, received none for conv1, conv2, head$"
    )
    with pytest.raises(InvalidInputError, match=message):
        apply(network, Params(bits={"dense": 5}), context)


def test_roles_choose_among_the_layers_that_have_no_levels_yet(make_network, make_context) -> None:
    network, context = make_network("conv"), make_context("conv", make_network("conv"))
    first = apply(network, Params(bits=8, layers=("first",)), context)
    assert set(first.grids) == {"conv1"}
    second = apply(first, Params(bits=3, layers=("convolutions", "head")), context)
    assert set(second.grids) == {"conv1", "conv2", "head"}
    assert len(named_layers(second)["conv1"].weight[0].unique()) > 7
    message = (
        r"quantize_weights\.layers: expected a role of the layers not quantized yet \(dense\), "
        r"received 'head'$"
    )
    with pytest.raises(InvalidInputError, match=message):
        apply(second, Params(layers=("head",)), context)


def test_the_portable_int8_of_the_graph_pass_can_be_trained_for(make_network, make_context) -> None:
    network = make_network("conv")
    params = Params(bits=8, highest=64, fit=False)
    weight = named_layers(apply(network, params, make_context("conv", network)))["conv1"].weight
    for row in weight.detach().flatten(1):
        codes = row / (row.abs().max() / 64)
        assert torch.equal(codes, codes.round())


@pytest.mark.parametrize("name", ["conv9", "conv1"])
def test_a_layer_that_is_not_there_or_has_levels_already_is_refused_by_name(
    make_network, make_context, name: str
) -> None:
    network, context = make_network("conv"), make_context("conv", make_network("conv"))
    quantized = apply(network, Params(layers=("conv1",)), context)
    expected = rf"quantize_weights\.layers.*not quantized yet \(conv2, dense1, head\).*{name}"
    with pytest.raises(InvalidInputError, match=expected):
        apply(quantized, Params(layers=(name,)), context)


def test_blocks_are_for_dense_layers(make_network, make_context) -> None:
    network = make_network("conv")
    with pytest.raises(InvalidInputError, match=r"quantize_weights\.block.*dense layers.*conv1"):
        apply(network, Params(block=16), make_context("conv", network))


@pytest.mark.parametrize("field", ["highest", "block"])
def test_what_belongs_to_linear_levels_is_refused_with_others(field: str) -> None:
    with pytest.raises(ValueError, match="require form = linear"):
        Params(form=Form.CODEBOOK, **{field: 16})
