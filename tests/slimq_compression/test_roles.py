from __future__ import annotations

import pytest

from slimq.core.errors import InvalidInputError
from slimq_compression.roles import Role, chosen_layers, roles_of, values_by_layer

CONV: dict[str, tuple[Role, ...]] = {
    "conv1": ("first", "convolutions"),
    "conv2": ("convolutions",),
    "dense1": ("dense",),
    "head": ("head",),
}
MLP: dict[str, tuple[Role, ...]] = {
    "dense1": ("first", "dense"),
    "dense2": ("dense",),
    "value": ("head",),
    "advantage": ("head",),
}


@pytest.mark.parametrize(
    ("wanted", "layers"),
    [
        (["first"], ["conv1"]),
        (["convolutions"], ["conv1", "conv2"]),
        (["head", "first"], ["conv1", "head"]),
        (["dense", "conv2"], ["conv2", "dense1"]),
        ([], []),
    ],
)
def test_layers_are_chosen_by_role_and_by_name_in_order_of_computation(
    wanted: list[str], layers: list[str]
) -> None:
    assert chosen_layers(wanted, CONV, "p.layers") == layers


def test_a_role_without_layers_is_without_effect_beside_one_that_has_some() -> None:
    assert chosen_layers(["convolutions", "head"], MLP, "p.layers") == ["value", "advantage"]


def test_roles_that_all_lack_layers_are_refused_with_those_that_there_are() -> None:
    message = (
        r"^p\.layers: expected a role of the layers \(first, dense, head\), "
        "received 'convolutions'$"
    )
    with pytest.raises(InvalidInputError, match=message):
        chosen_layers(["convolutions"], MLP, "p.layers")


def test_what_is_neither_a_role_nor_a_layer_is_refused() -> None:
    message = (
        r"^p\.layers: expected first, convolutions, dense, head or layers "
        r"\(conv1, conv2, dense1, head\), received 'conv9'$"
    )
    with pytest.raises(InvalidInputError, match=message):
        chosen_layers(["head", "conv9"], CONV, "p.layers")


@pytest.mark.parametrize(
    ("table", "values"),
    [
        ({"convolutions": 1, "dense": 2, "head": 3}, [1, 1, 2, 3]),
        ({"convolutions": 1, "dense": 2, "head": 3, "first": 4}, [4, 1, 2, 3]),
        ({"conv1": 5, "first": 4, "convolutions": 1, "default": 0}, [5, 1, 0, 0]),
        ({"default": 7}, [7, 7, 7, 7]),
    ],
)
def test_the_most_specific_key_gives_a_layer_its_value(
    table: dict[str, int], values: list[int]
) -> None:
    assert list(values_by_layer(table, CONV, "p.bits").values()) == values


def test_the_head_of_a_network_without_hidden_layers_is_first_a_head() -> None:
    roles = {"head": roles_of("dense", first=True, head=True)}
    assert values_by_layer({"first": 4, "head": 8}, roles, "p.bits") == {"head": 8}
    assert values_by_layer({"first": 4}, roles, "p.bits") == {"head": 4}


def test_one_table_fits_networks_of_other_layers() -> None:
    table = {"convolutions": 6, "head": 8, "dense": 5}
    assert list(values_by_layer(table, MLP, "p.bits").values()) == [5, 5, 8, 8]


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"convolutions": 6}, "a role of the layers (first, dense, head), received 'convolutions'"),
        (
            {"first": 6},
            "a value for each of the layers, or 'default' for the others, "
            "received none for dense2, value, advantage",
        ),
        (
            {"conv1": 6, "default": 4},
            "first, convolutions, dense, head or layers (dense1, dense2, value, advantage), "
            "received 'conv1'",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused(table: dict[str, int], problem: str) -> None:
    with pytest.raises(InvalidInputError) as error:
        values_by_layer(table, MLP, "p.bits")
    assert str(error.value) == f"p.bits: expected {problem}"
