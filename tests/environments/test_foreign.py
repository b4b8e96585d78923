from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gymnasium
import pytest

from slimq.core.errors import InvalidInputError, MissingExtraError
from slimq.environments.foreign import MAX_MESSAGE, explain, load, missing_dependency


def raised(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("raised nothing")


def test_an_exception_is_explained_on_one_line_of_limited_length() -> None:
    def fail() -> None:
        raise ValueError("x" * 1_000 + "\nsecond line")

    text = explain(raised(fail))
    assert text.startswith("ValueError: xxx")
    assert "\n" not in text
    assert len(text.partition(" (")[0]) == MAX_MESSAGE
    assert f"{Path(__file__).name}:" in text


def test_an_exception_within_a_library_names_the_line_that_called_it() -> None:
    error = raised(lambda: gymnasium.spaces.Box(0, 1, shape="no shape"))  # type: ignore[arg-type]
    assert f"{Path(__file__).name}:" in explain(error)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("opencv (cv2) is not installed", r"cv2 is not installed: .*slimq\[images\]"),
        ("Box2D is not installed, run `pip install swig`", r"Box2D is not installed: .*\[games\]"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(message: str, expected: str) -> None:
    error = missing_dependency(gymnasium.error.DependencyNotInstalled(message), "environment.id")
    assert isinstance(error, MissingExtraError)
    with pytest.raises(MissingExtraError, match=expected):
        raise error


def test_another_missing_library_is_named_as_gymnasium_does() -> None:
    error = missing_dependency(gymnasium.error.DependencyNotInstalled("mujoco is not"), "env")
    assert isinstance(error, InvalidInputError)
    assert str(error) == "env: expected an installed library, received mujoco is not"


def test_a_reference_without_a_colon_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"expected `FILE\.py:name` or `module:name`"):
        load("function", "game.py:make", "environment.wrappers[0].kwargs.func")
