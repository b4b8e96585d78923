"""Batches from what environments return: by name, nested, as tuples and as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from parts import SPECS, draw_parts
from slimq.core.batches import as_batch
from slimq.core.errors import ObservationError
from slimq.core.observation import ObservationPart, ObservationSpec

ROBOT = SPECS["robot"]
TUPLE = ObservationSpec(
    dtype="int32",
    shape=(3,),
    parts=(
        ObservationPart(name="0", shape=(), categories=(4,)),
        ObservationPart(name="1.x", shape=(2,), categories=(2, 2)),
    ),
)


@pytest.mark.parametrize("name", SPECS)
def test_parts_by_name_are_the_flat_observations(name: str) -> None:
    spec, drawn = SPECS[name], draw_parts(SPECS[name], 5)
    batch = as_batch(spec, drawn)
    assert (batch.shape, batch.dtype) == ((5, spec.size), spec.dtype)
    for part, where in spec.part_slices().items():
        np.testing.assert_array_equal(batch[:, where], np.reshape(drawn[part], (5, -1)))
    np.testing.assert_array_equal(as_batch(spec, batch), batch)
    one = {part: values[0] for part, values in drawn.items()}
    np.testing.assert_array_equal(as_batch(spec, one), batch[:1])


def test_nested_mappings_and_tuples_have_names_joined_by_dots() -> None:
    drawn = draw_parts(ROBOT, 2)
    nested = {"arm": {"angles": drawn["arm.angles"]}, "gear": drawn["gear"], "lamp": drawn["lamp"]}
    np.testing.assert_array_equal(as_batch(ROBOT, nested), as_batch(ROBOT, drawn))
    batch = as_batch(TUPLE, (np.int64(3), {"x": np.array([1, 0])}))
    assert batch.tolist() == [[3, 1, 0]]
    assert as_batch(TUPLE, (3, 1, 0)).tolist() == [[3, 1, 0]], "a sequence of numbers"


def test_booleans_are_bytes() -> None:
    buttons = SPECS["buttons"]
    pressed = np.array([True, False, True, True, False, False])
    expected = [[1, 0, 1, 1, 0, 0]]
    assert as_batch(buttons, pressed).tolist() == expected
    assert as_batch(buttons, {"keys": pressed}).tolist() == expected


def test_an_only_part_may_have_its_own_shape() -> None:
    taxi = SPECS["taxi"]
    assert as_batch(taxi, 1007).tolist() == [[1007]]
    assert as_batch(taxi, np.array([1007])).tolist() == [[1007]]
    assert as_batch(taxi, np.array([1007, 1003])).tolist() == [[1007], [1003]]
    assert as_batch(taxi, [[1007], [1003]]).tolist() == [[1007], [1003]]
    part = ObservationPart(name="grid", shape=(2, 2), integer=True, low=0, high=4)
    grid = ObservationSpec(dtype="uint8", shape=(4,), parts=(part,))
    assert as_batch(grid, [[[0, 1], [2, 3]]]).tolist() == [[0, 1, 2, 3]]
    with pytest.raises(ObservationError, match=r"an integer from 0 to 4 in 'grid'\[1\]\[1\]"):
        as_batch(grid, [[0, 1], [2, 5]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gear": None}, "dtype object"),
        ({"gear": "first"}, "observations.gear: expected numbers, received dtype <U5"),
        ({"gear": [1, 2, 3]}, "as many observations in every part, received arm.angles 2, gear 3"),
        ({"gear": [0, 1]}, r"an integer from 1 to 3 in 'gear', received 0"),
        ({"gear": [1.5, 1]}, r"an integer from 1 to 3 in 'gear', received 1.5"),
        ({"gear": [1, 1 + 1e-9]}, "an integer from 1 to 3 in 'gear', received 1.000000001"),
        ({"arm.angles": [[0, np.nan], [0, 0]]}, r"a finite float32 in 'arm.angles'\[1\]"),
        ({"arm.angles": [[0], [0, 1]]}, "observations.arm.angles: expected a rectangular array"),
        ({"arm": {"angles": 0}}, "observations: expected each part once, received two parts"),
        ({"lamps": 1}, "the parts arm.angles, gear, lamp, received an unknown part 'lamps'"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_part_and_its_limit(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ObservationError, match=message):
        as_batch(ROBOT, draw_parts(ROBOT, 2) | changes)


def test_parts_for_an_array_and_ragged_arrays_are_refused() -> None:
    vector = ObservationSpec(dtype="float32", shape=(2,))
    with pytest.raises(ObservationError, match="no named parts, received parts x"):
        as_batch(vector, {"x": [0, 0]})
    with pytest.raises(ObservationError, match="lists of unequal lengths"):
        as_batch(vector, [[0, 0], [0]])
    with pytest.raises(ObservationError, match=r"no part 'lamp'"):
        as_batch(ROBOT, {"arm.angles": [[0, 0]], "gear": 1})
