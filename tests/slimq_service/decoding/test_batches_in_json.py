"""Batches from JSON: nested lists, or one list per part."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from parts import SPECS, draw_parts
from slimq.core.errors import ObservationError
from slimq.core.observation import ObservationSpec
from slimq_service.decoding.batches_in_json import read_batch
from slimq_service.decoding.nested_lists import SPARE_LISTS
from slimq_service.decoding.observations import JSON, parse
from slimq_service.errors import LimitError

MAZE, ROBOT = SPECS["maze"], SPECS["robot"]
ONE = {"image": np.zeros((2, 3, 2), int).tolist(), "direction": 3}


def read(value: Any, spec: ObservationSpec = MAZE, max_batch: int = 4) -> Any:
    """Through the whole way of a body."""
    body = json.dumps({"observations": value}).encode()
    return parse(JSON, body, spec, max_batch).observations(spec, max_batch)


@pytest.mark.parametrize("name", SPECS)
def test_parts_and_flat_lists_give_the_same_batch(name: str) -> None:
    spec = SPECS[name]
    drawn = {part: values.tolist() for part, values in draw_parts(spec, 3).items()}
    expected = spec.join(drawn)
    for value in (drawn, expected.tolist()):
        found = read(value, spec)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_one_observation_may_lack_the_batch_axis_in_any_part() -> None:
    expected = [[0] * 12 + [3]]
    assert read(ONE).tolist() == expected
    assert read({**ONE, "direction": [3]}).tolist() == expected
    assert read({**ONE, "image": [ONE["image"]]}).tolist() == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"direction": 4}, "an integer from 0 to 3 in 'direction', received 4"),
        ({"direction": 0.5}, "an integer from 0 to 3 in 'direction', received 0.5"),
        (
            {"direction": "up"},
            "observations.direction: expected a number, received the string 'up'",
        ),
        ({"direction": None}, "observations.direction: expected a number, received null"),
        ({"direction": []}, "observations.direction: expected a batch of at least 1"),
        (
            {"direction": [1, True]},
            r"observations.direction\[1\]: expected a number, received true",
        ),
        ({"direction": [1, 2]}, "in every part, received image 1, direction 2"),
        ({"direction": {"x": 1}}, "observations.direction: expected lists of numbers"),
        ({"image": 7}, r"observations.image: expected a list of shape \(batch, 2, 3, 2\)"),
        ({"image": [[[1, 2]]]}, r"observations.image: expected a list of 2 lists"),
        ({"image": [[[0, 11]] * 3] * 2}, r"from 0 to 10 in 'image'\[0\]\[0\]\[1\], received 11"),
        ({"speed": 1}, "the parts image, direction, received an unknown part 'speed'"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_part(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ObservationError, match=message):
        read(ONE | changes)


def test_a_missing_part_is_named() -> None:
    with pytest.raises(ObservationError, match="received no part 'image'"):
        read({"direction": 1})
    with pytest.raises(ObservationError, match="received no part 'direction'"):
        read({})


@pytest.mark.parametrize(
    ("value", "received"),
    [
        ([ONE, ONE], "a list of objects"),
        ([[ONE]], "a list of objects"),
        ([ONE["image"], 3], "a list of shape (2, 2, 3, …)"),
        ([[[0] * 13]], "a list of shape (1, 1, 13)"),
        ([[0] * 12], "a list of shape (1, 12)"),
        ([0] * 12, "a list of shape (12)"),
        (7, "the number 7"),
    ],
)
def test_lists_that_are_no_flat_observations_are_told_the_form(value: Any, received: str) -> None:
    form = "an object with the parts 'image', 'direction', a batch in each, or a list of shape"
    with pytest.raises(ObservationError) as raised:
        read(value)
    assert f"observations: expected {form} (batch, 13), received {received}" in str(raised.value)


def test_parts_are_refused_where_there_are_none() -> None:
    with pytest.raises(ObservationError, match="received an object with the keys"):
        read(ONE, ObservationSpec(dtype="float32", shape=(13,)))


def test_the_batch_of_every_part_is_limited() -> None:
    many = {"image": [ONE["image"]] * 5, "direction": [0] * 5}
    with pytest.raises(LimitError, match=r"observations\.image: .* received 5 observations"):
        read(many)
    assert len(read(many, max_batch=5)) == 5


def test_lists_of_parts_are_counted_before_they_are_parsed() -> None:
    count = 300  # the image has 10 lists, so a full batch has more than those of a flat one
    full = {"image": [ONE["image"]] * count, "direction": [0] * count}
    assert len(read(full, max_batch=count)) == count
    lists = [[]] * (SPARE_LISTS + 20 * count)
    with pytest.raises(LimitError, match="lists, objects and keys"):
        read({"image": lists, "direction": lists}, max_batch=count)


def test_integers_among_floats_are_checked_before_they_are_rounded() -> None:
    exact = {"arm.angles": [[0.1, 0.2]], "gear": [3], "lamp": [[1]]}
    assert read(exact, ROBOT).tolist() == np.float32([[0.1, 0.2, 3, 1]]).tolist()
    for flat in ([[0.1, 0.2, 3.000000001, 1]], [[0.1, 0.2, 4, 1]]):
        with pytest.raises(ObservationError, match="an integer from 1 to 3 in 'gear'"):
            read(flat, ROBOT)


def test_vectors_without_parts_take_the_short_way() -> None:
    vectors = read_batch([[1, 2.5]], ObservationSpec(dtype="float32", shape=(2,)), 4, "x")
    assert vectors.tolist() == [[1, 2.5]]
