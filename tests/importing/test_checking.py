from __future__ import annotations

import numpy as np
import pytest

from slimq.core.observation import ObservationPart, ObservationSpec
from slimq.importing.checking import draw_observations, evaluate, relative_error

SPECS = {
    "numbers": ObservationSpec(dtype="float32", shape=(3,)),
    "bounded": ObservationSpec(dtype="float32", shape=(2, 2), low=-2, high=5),
    "huge": ObservationSpec(dtype="float32", shape=(2,), low=-1e9, high=1e9),
    "bytes": ObservationSpec(dtype="uint8", shape=(3, 4, 5), low=0, high=255),
    "bits": ObservationSpec(dtype="uint8", shape=(6,), low=0, high=1),
    "parts": ObservationSpec(
        dtype="float32",
        shape=(5,),
        parts=(
            ObservationPart(name="a", shape=(), categories=(3,), start=(-1,)),
            ObservationPart(name="b", shape=(2,), integer=True, low=0, high=1),
            ObservationPart(name="c", shape=(1, 2)),
        ),
    ),
}


@pytest.mark.parametrize("name", SPECS)
def test_drawn_observations_are_valid_varied_and_repeatable(name: str) -> None:
    spec = SPECS[name]
    states = draw_observations(spec, 40)
    assert states.shape == (40, *spec.shape)
    np.testing.assert_array_equal(spec.check(states), states)
    np.testing.assert_array_equal(draw_observations(spec, 40), states)
    assert (states.reshape(40, -1).std(axis=0) > 0).all()
    assert (np.abs(states) <= 255).all()


def test_errors_are_relative_to_the_largest_q_value() -> None:
    expected = np.array([[10.0, -20.0]], np.float32)
    assert relative_error(expected, expected) == 0
    assert relative_error(expected, expected + np.float32(1)) == pytest.approx(0.05)
    assert relative_error(np.zeros((1, 2), np.float32), np.full((1, 2), 0.5, np.float32)) == 0.5
    assert relative_error(expected, np.full((1, 2), np.nan, np.float32)) == float("inf")
    assert relative_error(expected, np.ones((2, 2), np.float32)) == float("inf")


def test_many_states_are_evaluated_in_batches() -> None:
    sizes = []

    def q_function(states: np.ndarray) -> np.ndarray:
        sizes.append(len(states))
        return states[:, :2]

    states = draw_observations(SPECS["numbers"], 600)
    np.testing.assert_array_equal(evaluate(q_function, states), states[:, :2])  # type: ignore[arg-type]
    assert sizes == [256, 256, 88]
