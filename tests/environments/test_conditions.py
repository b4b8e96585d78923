from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from slimq.core.conditions.catalogue import Condition
from slimq.core.conditions.disturbances import Sensor
from slimq.core.errors import EnvironmentFailure, InvalidInputError
from slimq.environments.conditions import load_condition

FOG = "def fog(frame, strength, generator):\n    return frame + strength * generator.integers(9)\n"
SENSOR = Sensor(
    (2, 2), np.dtype("uint8"), np.ones((2, 2)), np.zeros((2, 2)), np.full((2, 2), 255.0),
    np.ones((2, 2), np.bool_),
)  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text=FOG, name="mine.py:fog", file="mine.py"):
    Path(file).write_text(text, encoding="utf-8")
    return load_condition(Condition(name=name, strength=1))


def channel(text, strength=1.0):
    return load(text).channel(SENSOR, strength, np.random.default_rng(1))


def frame():
    return np.array([[0, 50], [100, 254]], np.uint8)


def test_what_is_built_in_needs_no_file():
    assert load_condition(Condition(name="noise", strength=4)) is None


def test_a_function_gets_frame_strength_and_generator_and_its_result_is_clipped_and_rounded():
    drawn = np.random.default_rng(1).integers(9)
    arrived = channel(FOG, 0.3)(frame())
    assert arrived.dtype == np.uint8
    np.testing.assert_array_equal(arrived, np.rint(frame() + 0.3 * drawn).clip(0, 255))
    assert channel("def fog(f, s, g): return f * -1e300")(frame()).tolist() == [[0, 0], [0, 0]]
    assert channel("def fog(f, s, g): return f > 60")(frame()).tolist() == [[0, 0], [1, 1]]
    assert channel("def fog(f, s, g): return f.tolist()")(frame()).tolist() == frame().tolist()


def test_a_function_may_modify_what_it_gets():
    given = frame()
    channel("def fog(frame, strength, generator):\n    frame[:] = 7\n    return frame")(given)
    np.testing.assert_array_equal(given, frame())


def test_the_files_digest_is_known_and_that_of_a_module_is_not(here, monkeypatch):
    assert load().code_sha256 == hashlib.sha256(FOG.encode()).hexdigest()
    monkeypatch.syspath_prepend(here)
    assert load(FOG, "weather_of_tests:fog", "weather_of_tests.py").code_sha256 is None


def test_a_file_may_import_its_neighbours_even_while_it_is_called(here):
    (here / "nearby_weather.py").write_text("depth = 3\n")
    text = "def fog(f, s, g):\n    from nearby_weather import depth\n    return f * 0 + depth\n"
    assert set(channel(text)(frame()).ravel()) == {3}


def test_callables_of_other_kinds_are_called_too():
    text = "class Fog:\n    def __call__(self, *all):\n        return all[0] // 2\nfog = Fog()\n"
    assert channel(text)(frame()).tolist() == [[0, 25], [50, 127]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fog = 3", "conditions: expected a function, received mine.py:fog, a int"),
        ("def fog(frame): return frame", "conditions: expected mine.py:fog to take (frame, "
         "strength, generator), received too many positional arguments"),
        ("def fog(a, b, c, d): return a", "received missing a required argument: 'd'"),
        ("def fog(a, b, c, *, deep): return a", "received missing a required argument: 'deep'"),
        ("def foggy(a, b, c): return a", "conditions: expected a name that mine.py defines, "
         "received 'fog', did you mean 'foggy'?"),
    ],
)  # fmt: skip
def test_what_is_no_such_function_is_refused_before_play(text, message):
    with pytest.raises(InvalidInputError) as raised:
        load(text)
    assert message in str(raised.value)


def test_a_missing_file_is_named():
    with pytest.raises(InvalidInputError, match=r"conditions: expected a file, received no\.py"):
        load_condition(Condition(name="no.py:fog", strength=1))


@pytest.mark.parametrize("name", ["json:dumps", ":fog", "mine.py:", "not a module:fog"])
def test_what_is_no_reference_is_refused(name):
    with pytest.raises(InvalidInputError, match="conditions: expected"):
        load(name=name)


@pytest.mark.parametrize("text", ["raise ValueError('broken')", "def fog(:\n", "import nowhere_"])
def test_a_file_that_cannot_be_executed_is_a_failure_of_its_own(text):
    with pytest.raises(EnvironmentFailure, match=r"mine\.py"):
        load(text)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("return frame[0]", "expected numbers of shape (2, 2), received uint8 of shape (2,)"),
        ("return 'fog'", "received <U3 of shape ()"),
        ("return None", "received object of shape ()"),
        ("return [[1, 2], [3]]", "ValueError"),
        ("return frame + float('inf')", "expected finite numbers, received NaN or infinity"),
        ("return frame / 0 * 0", "received NaN or infinity"),
        ("1 / 0", "ZeroDivisionError: division by zero (mine.py:5)"),
    ],
)
def test_a_fault_while_playing_names_the_function(body, problem):
    head = "import numpy\n\ndef fog(frame, strength, generator):\n    numpy.seterr(all='ignore')\n"
    with np.errstate(), pytest.raises(EnvironmentFailure) as raised:
        channel(f"{head}    {body}\n")(frame())
    assert str(raised.value).startswith("mine.py:fog: call: ")
    assert problem in str(raised.value)
