from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slimq.core.environment import AtariPreprocessing, EnvironmentSpec, WrapperSpec
from slimq.core.errors import EnvironmentFailure, InvalidInputError, MissingExtraError
from slimq.environments.description import examine
from slimq.environments.vector import VectorEnvironment, describe

Game = Callable[..., str]
IMAGES = "self.observation_space = Box(0, 255, (8, 6, 3), np.uint8); self.observe = self.image"
IMAGE = """    def image(self):
        return self.np_random.integers(0, 256, (8, 6, 3), np.uint8)

"""
WRAPPERS = """
import gymnasium
import numpy as np

class Doubled(gymnasium.ObservationWrapper):
    def __init__(self, env, factor=2):
        super().__init__(env)
        self.factor = factor
    def observation(self, observation):
        return observation * np.float32(self.factor)

class Broken(gymnasium.Wrapper):
    def __init__(self, env):
        raise ValueError("no good")

def nothing(env):
    return None

def first(observation):
    return observation[:1]

def smaller(space):
    return gymnasium.spaces.Box(space.low[:1], space.high[:1], dtype=space.dtype)

SPACE = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
"""


@pytest.fixture
def wrapped(game: Game) -> Callable[..., EnvironmentSpec]:
    """`wrapped(("Name", {...}), ...)`: the game in these wrappers; their own are in `mine.py`."""

    def make(*wrappers: tuple[str, dict[str, Any]], init: str = "pass") -> EnvironmentSpec:
        identifier = game(init=init)
        path = Path("game.py")
        path.write_text(path.read_text().replace("    def observe", f"{IMAGE}    def observe"))
        Path("mine.py").write_text(WRAPPERS)
        specs = tuple(WrapperSpec(name=name, kwargs=kwargs) for name, kwargs in wrappers)
        return EnvironmentSpec(id=identifier, wrappers=specs)

    return make


def first_observation(spec: EnvironmentSpec) -> Any:
    vector = VectorEnvironment(spec, 1)
    observations = vector.start([5])
    vector.step(np.array([0]))
    vector.close()
    return observations[0]


@pytest.mark.parametrize(
    ("wrappers", "init", "shape", "dtype"),
    [
        ([("FlattenObservation", {})], IMAGES, (144,), "uint8"),
        ([("FrameStackObservation", {"stack_size": 4})], "pass", (4, 3), "float32"),
        ([("GrayscaleObservation", {"keep_dim": False})], IMAGES, (8, 6), "uint8"),
        ([("ReshapeObservation", {"shape": [3, 1]})], "pass", (3, 1), "float32"),
        ([("TransformObservation", {"func": "mine.py:first"})], "pass", None, None),
        (
            [
                (
                    "TransformObservation",
                    {"func": "mine.py:first", "observation_space": "mine.py:SPACE"},
                )
            ],
            "pass",
            (1,),
            "float32",
        ),
        (
            [
                (
                    "TransformObservation",
                    {"func": "mine.py:first", "observation_space": "mine.py:smaller"},
                ),
                ("mine.py:Doubled", {"factor": 3}),
            ],
            "pass",
            (1,),
            "float32",
        ),
    ],
)
def test_wrappers_are_found_by_name(
    wrapped: Callable[..., EnvironmentSpec],
    wrappers: Any,
    init: str,
    shape: tuple[int, ...] | None,
    dtype: str | None,
) -> None:
    spec = wrapped(*wrappers, init=init)
    if shape is None:  # the function changes the shape, the space is still the inner one
        with pytest.raises(EnvironmentFailure, match=r"shape \(3,\), received shape \(1,\)"):
            first_observation(spec)
        return
    found = first_observation(spec)
    assert (found.shape, str(found.dtype)) == (shape, dtype)
    assert describe(spec).observation.shape == shape


def test_an_own_wrapper_gets_its_arguments(wrapped: Callable[..., EnvironmentSpec]) -> None:
    plain = first_observation(wrapped())
    twice = first_observation(wrapped(("mine.py:Doubled", {}), ("mine.py:Doubled", {"factor": 4})))
    np.testing.assert_allclose(twice, plain * 8, rtol=1e-6)


def test_a_wrapper_gets_arrays_where_it_declares_them(
    wrapped: Callable[..., EnvironmentSpec],
) -> None:
    bounds = {"min_obs": [0, 0, -1], "max_obs": [18, 1, 1.5]}
    plain = first_observation(wrapped())
    scaled = first_observation(wrapped(("RescaleObservation", bounds)))
    np.testing.assert_allclose(
        scaled, (plain + 9) / 18 * np.array([18, 1, 2.5]) + [0, 0, -1], rtol=1e-5
    )
    ragged = wrapped(("RescaleObservation", bounds | {"min_obs": [[0], 0]}))
    with pytest.raises(
        InvalidInputError, match=r"wrappers\[0\]\.kwargs\.min_obs: expected numbers"
    ):
        describe(ragged)


@pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="needs slimq[images]")
def test_images_are_resized(wrapped: Callable[..., EnvironmentSpec]) -> None:
    spec = wrapped(("ResizeObservation", {"shape": [4, 5]}), init=IMAGES)
    assert first_observation(spec).shape == (4, 5, 3)


@pytest.mark.skipif(importlib.util.find_spec("cv2") is not None, reason="slimq[images] is there")
def test_the_extra_that_resizing_needs_is_named(wrapped: Callable[..., EnvironmentSpec]) -> None:
    spec = wrapped(("ResizeObservation", {"shape": [4, 5]}), init=IMAGES)
    with pytest.raises(MissingExtraError, match=r"cv2 is not installed: .*slimq\[images\]"):
        describe(spec)


def test_a_stack_that_is_padded_with_zeros_is_rebuilt_from_frames(
    wrapped: Callable[..., EnvironmentSpec],
) -> None:
    spec = wrapped(("FrameStackObservation", {"stack_size": 3, "padding_type": "zero"}))
    layout = describe(spec).observation
    assert layout.stack is not None
    assert (layout.stack.axis, layout.stack.count, layout.frame.shape) == (0, 3, (3,))
    vector, plain = VectorEnvironment(spec, 1), VectorEnvironment(wrapped(), 1)
    seen, expected = vector.start([5]), layout.push(layout.padding(), plain.start([5]))
    np.testing.assert_array_equal(seen, expected)
    for _ in range(4):
        seen = vector.step(np.array([0])).observations
        expected = layout.push(expected, plain.step(np.array([0])).observations)
        np.testing.assert_array_equal(seen, expected)
    vector.close()


@pytest.mark.parametrize(
    ("wrappers", "init"),
    [
        ([("FrameStackObservation", {"stack_size": 3})], "pass"),
        (
            [("FrameStackObservation", {"stack_size": 3, "padding_type": "zero"})],
            "self.observation_space = Box(0.1, 9, (3,), np.float32)",
        ),
        (
            [
                ("FrameStackObservation", {"stack_size": 3, "padding_type": "zero"}),
                ("FlattenObservation", {}),
            ],
            "pass",
        ),
    ],
)
def test_other_stacks_are_observations_as_they_are(
    wrapped: Callable[..., EnvironmentSpec], wrappers: Any, init: str
) -> None:
    assert describe(wrapped(*wrappers, init=init)).observation.stack is None


def test_normalization_is_left_to_the_network(wrapped: Callable[..., EnvironmentSpec]) -> None:
    spec = wrapped(("NormalizeObservation", {}))
    assert examine(spec).normalized
    np.testing.assert_array_equal(first_observation(spec), first_observation(wrapped()))


@pytest.mark.parametrize(
    ("wrappers", "init", "message"),
    [
        (
            [("NormalizeObservation", {}), ("FlattenObservation", {})],
            "pass",
            r"wrappers\[0\]: expected NormalizeObservation as the last wrapper, received Flatten",
        ),
        ([("NormalizeObservation", {})], IMAGES, r"wrappers\[0\]: expected a Box of floats"),
        (
            [("NormalizeObservation", {"epsilon": 0.1})],
            "pass",
            r"wrappers\[0\]\.kwargs: expected no arguments of NormalizeObservation",
        ),
        (
            [("FlattenObservations", {})],
            "pass",
            r"wrappers\[0\]\.name: .*'FlattenObservations', did you mean 'FlattenObservation'\?",
        ),
        ([("vector", {})], "pass", r"wrappers\[0\]\.name: expected a wrapper of gymnasium"),
        (
            [("FlattenObservation", {"axis": 1})],
            "pass",
            r"wrappers\[0\]\.kwargs: .*unexpected keyword argument 'axis'",
        ),
        (
            [("FrameStackObservation", {"stack_size": 0})],
            "pass",
            r"wrappers\[0\]: expected a wrapper that fits, received FrameStackObservation: Value",
        ),
        (
            [("TransformObservation", {"func": 3})],
            "pass",
            r"wrappers\[0\]\.kwargs\.func: expected func = \"FILE\.py:function\" or \"mod",
        ),
        (
            [
                (
                    "TransformObservation",
                    {"func": "mine.py:first", "observation_space": "mine.py:np"},
                )
            ],
            "pass",
            r"wrappers\[0\]\.kwargs\.observation_space: expected a gymnasium space, .* a module",
        ),
        ([("mine.py:SPACE", {})], "pass", r"wrappers\[0\]\.name: expected a class or a function"),
        ([("other.py:Class", {})], "pass", r"wrappers\[0\]\.name: expected a file"),
    ],
)
def test_wrappers_that_do_not_fit_are_refused_by_place(
    wrapped: Callable[..., EnvironmentSpec], wrappers: Any, init: str, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=rf"^environment\.{message}"):
        describe(wrapped(*wrappers, init=init))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine.py:Broken", r"creation: mine.py:Broken: ValueError: no good \(mine\.py:14\)"),
        ("mine.py:nothing", r"mine.py:nothing: expected a gymnasium.Env, received a NoneType"),
    ],
)
def test_a_wrapper_that_fails_is_named_with_its_line(
    wrapped: Callable[..., EnvironmentSpec], name: str, message: str
) -> None:
    with pytest.raises(EnvironmentFailure, match=message):
        describe(wrapped((name, {})))


def test_preprocessing_and_wrappers_exclude_each_other() -> None:
    spec = EnvironmentSpec(
        id="ALE/Pong-v5",
        preprocessing=AtariPreprocessing(),
        wrappers=(WrapperSpec(name="FlattenObservation"),),
    )
    with pytest.raises(
        InvalidInputError, match=r"^environment\.wrappers: expected none in addition"
    ):
        describe(spec)
