from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    Graph,
    MultiBinary,
    MultiDiscrete,
    OneOf,
    Sequence,
    Text,
    Tuple,
)

from slimq.core.errors import InvalidInputError, ObservationError
from slimq.environments.spaces import encode, holds_zero, layout

NESTED = Dict(
    {
        "cards": MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [-2, 0]]),
        "image": Box(0, 9, (4, 4, 3), np.uint8),
        "inner": Tuple([Discrete(3, start=-1), Dict({"lamps": MultiBinary(3)})]),
        "speed": Box(-1, 1, (2,), np.float64),
    }
)
SPACES = {
    "box": Box(-1, 1, (2, 3), np.float32),
    "box of doubles": Box(-1, 1, (3,), np.float64),
    "box of integers": Box(-500, 500, (3,), np.int64),
    "number": Box(-1, 1, (), np.float32),
    "image": Box(0, 255, (5, 4, 3), np.uint8),
    "bool": Box(0, 1, (3, 2), np.bool_),
    "discrete": Discrete(5),
    "discrete with a start": Discrete(4, start=-3),
    "multi-discrete": MultiDiscrete([3, 1, 4]),
    "multi-discrete of two axes": MultiDiscrete([[2, 3], [4, 5]], start=[[5, 0], [0, -1]]),
    "multi-binary": MultiBinary(4),
    "multi-binary of two axes": MultiBinary([2, 3]),
    "tuple": Tuple([Discrete(3), Discrete(2, start=7)]),
    "dictionary of bytes": Dict(
        {"image": Box(0, 255, (2, 2, 1), np.uint8), "keys": MultiBinary(2)}
    ),
    "nested": NESTED,
}


def one_hot(spec: Any, encoded: np.ndarray) -> np.ndarray:
    """What the layout says that the encoded observation means, by hand."""
    if spec.parts is None:
        return encoded.reshape(-1).astype(np.float64)
    meant: list[float] = []
    for part, place in zip(spec.parts, spec.part_slices().values(), strict=True):
        values = encoded[place].tolist()
        if part.categories is None:
            meant += values
            continue
        for value, count, first in zip(values, part.categories, part.first, strict=True):
            meant += [float(value - first == code) for code in range(count)]
    return np.array(meant)


@pytest.mark.parametrize("name", SPACES)
def test_an_encoded_observation_means_what_gymnasium_flattens_it_to(name: str) -> None:
    space = SPACES[name]
    space.seed(3)
    spec = layout(space, "Test-v0")
    for _ in range(20):
        value = space.sample()
        encoded = encode(space, spec, value)
        assert encoded.shape == spec.shape
        assert encoded.dtype == spec.dtype
        np.testing.assert_allclose(
            one_hot(spec, encoded), gymnasium.spaces.flatten(space, value), atol=1e-6
        )
        # What the environment gives, the service takes.
        np.testing.assert_array_equal(spec.check(encoded)[0], encoded)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("box", "float32"),
        ("box of doubles", "float32"),
        ("box of integers", "float32"),
        ("image", "uint8"),
        ("bool", "uint8"),
        ("discrete", "int32"),
        ("multi-discrete", "int32"),
        ("multi-binary", "uint8"),
        ("tuple", "int32"),
        ("dictionary of bytes", "uint8"),
        ("nested", "float32"),
    ],
)
def test_the_dtype_is_the_smallest_that_holds_every_part(name: str, dtype: str) -> None:
    assert layout(SPACES[name], "Test-v0").dtype == dtype


def test_a_box_is_one_array_with_its_own_range_if_it_has_bytes() -> None:
    image, flags = layout(SPACES["image"], "Test-v0"), layout(SPACES["bool"], "Test-v0")
    assert (image.parts, image.shape, image.low, image.high) == (None, (5, 4, 3), 0.0, 255.0)
    assert (flags.parts, flags.shape, flags.low, flags.high) == (None, (3, 2), 0.0, 1.0)


def test_names_of_nested_parts_are_joined_with_dots() -> None:
    spec = layout(NESTED, "Test-v0")
    assert spec.parts is not None
    names = [part.name for part in spec.parts]
    assert names == ["cards", "image", "inner.0", "inner.1.lamps", "speed"]
    assert spec.parts[0].start == (0, 1, -2, 0)
    assert (spec.parts[1].integer, spec.parts[1].high) == (True, 9.0)


def test_encoding_copies() -> None:
    space = SPACES["box"]
    value = np.zeros((2, 3), np.float32)
    encoded = encode(space, layout(space, "Test-v0"), value)
    value[:] = 1
    assert not encoded.any()


@pytest.mark.parametrize(
    ("space", "kind"),
    [
        (Text(4), "Text"),
        (Sequence(Discrete(2)), "Sequence"),
        (Graph(Discrete(2), None), "Graph"),
        (OneOf([Discrete(2), Discrete(3)]), "OneOf"),
        (Dict({"mission": Text(4)}), "'mission', a Text"),
        (Tuple([Discrete(2), Sequence(Discrete(2))]), "'1', a Sequence"),
    ],
)
def test_other_spaces_are_refused_by_name(space: Any, kind: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^environment.id: .*received Test-v0:? ?.*{kind}"):
        layout(space, "Test-v0")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Dict({"a.b": Discrete(2), "a": Dict({"b": Discrete(2)})}), "different names.*'a.b' twice"),
        (Dict({}), "no elements"),
        (Box(0, 1, (2, 0)), "with elements"),
        (Box(0, 1, (1,) * 9), "at most 8"),
        (Discrete(70_000), "less than or equal to 65536"),
        (Dict({"id": Discrete(3, start=2**31)}), "'id' from 2147483648 to 2147483650"),
        (Tuple([Discrete(3, start=2**24), Box(0, 1, (1,))]), "categories from -16777216"),
        (Discrete(4, start=2**25), "received 'observation' from 33554432 to 33554435"),
        (MultiDiscrete([2], start=[-(2**24) - 1]), "'observation' from -16777217 to -16777216"),
        (
            Dict(a=Discrete(2), m=MultiDiscrete([60_000] * 20)),
            "one-hot codes, received 1,200,000 in 'm'",
        ),
        (Box(0, 2**40, (2,), np.int64), "'observation' with the bound 1099511627776"),
        (Dict(n=Box(-(2**24) - 1, 0, (2,), np.int32)), "'n' with the bound -16777217"),
        (Box(0, 1, (0,), np.uint8), "with elements, received Test-v0: 'observation' of shape"),
    ],
)
def test_spaces_that_no_layout_holds_are_refused(space: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        layout(space, "Test-v0")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("box", np.zeros((3, 2)), r"observation: expected shape \(2, 3\), received shape \(3, 2\)"),
        ("box", [[0, 0, 0], [0, float("nan"), 0]], r"observation\[1\]\[1\]: .*finite.*nan"),
        ("box of doubles", [1e300, 0, 0], r"observation\[0\]: expected a finite float32.*1e\+300"),
        ("box", "high", r"observation: expected numbers, received a str"),
        ("box", None, r"observation: expected numbers, received a NoneType"),
        ("image", np.full((5, 4, 3), 300), r"integers from 0 to 255, received 300"),
        ("image", np.full((5, 4, 3), 0.5), r"expected integers, received 0.5"),
        ("discrete", 5, r"observation: expected an integer from 0 to 4, received 5"),
        ("discrete", 1.5, r"observation: expected integers, received 1.5"),
        ("discrete with a start", 1, r"an integer from -3 to 0, received 1"),
        ("multi-binary", [0, 1, 2, 0], r"observation\[2\]: expected an integer from 0 to 1"),
        ("tuple", (1,), r"1: expected at least 2 elements, received 1"),
        ("tuple", {"a": 1}, r"0: expected a value, received none, but the keys a"),
        ("tuple", 3, r"0: expected a tuple, received a int"),
        ("dictionary of bytes", {"keys": [0, 1]}, r"image: expected a value, .*the keys keys"),
        ("dictionary of bytes", [1], r"image: expected a dictionary, received a list"),
    ],
)
def test_values_outside_the_space_are_refused_by_place(name: str, value: Any, message: str) -> None:
    space = SPACES[name]
    with pytest.raises(ObservationError, match=message):
        encode(space, layout(space, "Test-v0"), value)


@pytest.mark.parametrize("dtype", [np.int64, np.uint32, np.int32])
@pytest.mark.parametrize("nested", [True, False])
def test_an_unbounded_box_of_integers_takes_those_that_float32_holds(
    dtype: Any, nested: bool
) -> None:
    limits = np.iinfo(dtype)
    box = Box(limits.min, limits.max, (2,), dtype)
    space: Any = Dict(n=box) if nested else box
    spec = layout(space, "Test-v0")

    def encoded(*values: int) -> Any:
        array = np.array(values, dtype)
        return encode(space, spec, {"n": array} if nested else array).tolist()

    assert encoded(3, 2**24) == [3.0, 2.0**24]
    with pytest.raises(ObservationError, match=r"\[1\]: expected integers from .*16777217"):
        encoded(3, 2**24 + 1)


def test_only_spaces_that_hold_zero_are_padded_with_it() -> None:
    assert holds_zero(Box(-1, 1, (2,)))
    assert not holds_zero(Box(1, 2, (2,)))
    assert not holds_zero(Discrete(2))
