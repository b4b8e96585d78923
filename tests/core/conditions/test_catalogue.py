from __future__ import annotations

import numpy as np
import pytest

from layouts import LAYOUTS
from slimq.core.conditions.catalogue import (
    CONDITIONS,
    KINDS,
    MAX_NAME,
    Condition,
    kind_of,
    measuring,
    parse_condition,
    require_applicable,
    standard_conditions,
)
from slimq.core.errors import InvalidInputError

FRAMES = ["noise=4", "brightness=8", "lost=0.1", "sticky=0.25", "delayed=1"]
VECTORS = ["noise=0.01", "bias=0.01", "held=0.1", "sticky=0.25", "delayed=1"]
NAMING = VECTORS[2:]
"""The standard set of observations that only name something."""

STANDARD = {
    "frames stacked first": FRAMES,
    "frames stacked last": FRAMES,
    "color frames stacked last": FRAMES,
    "frames": FRAMES,
    "frames without bounds": FRAMES,
    "one pixel": FRAMES,
    "bytes": VECTORS,
    "bounded vector": VECTORS,
    "unbounded vector": VECTORS,
    "stacked vectors": VECTORS,
    "vectors joined in a stack": VECTORS,
    "float image": VECTORS,
    "flags": NAMING,
    "one-hot": NAMING,
    "integers": VECTORS,
    "parts": VECTORS,
    "bytes in parts": VECTORS,
}


def labels(conditions):
    return [condition.label for condition in conditions]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_standard_set_is_that_of_the_kind(layout):
    found = standard_conditions(LAYOUTS[layout])
    assert labels(found) == STANDARD[layout]
    for condition in found:
        require_applicable(condition, LAYOUTS[layout])
        assert parse_condition(condition.name, kind_of(LAYOUTS[layout])) == condition


def test_every_row_disturbs_one_thing_and_its_standard_strengths_are_within_its_limits():
    for name, row in CONDITIONS.items():
        assert (row.observation is None) != (row.action is None), name
        assert set(row.standard) <= set(row.kinds) <= set(KINDS), name
        assert all(0 < strength <= row.most for strength in row.standard.values()), name
        assert row.effect.count("{}") == 1, name


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("parts", [False, False, False, False, *[True] * 7]),
        ("bytes in parts", [False, False, True, True, True, True]),
        ("one-hot", [False]),
        ("integers", [True, True, True]),
        ("bounded vector", [True] * 5),
    ],
)
def test_categories_and_flags_measure_nothing(layout, expected):
    assert measuring(LAYOUTS[layout].frame).tolist() == expected


def test_bytes_up_to_1_are_flags():
    assert not measuring(LAYOUTS["flags"]).any()
    assert measuring(LAYOUTS["frames"]).all()
    assert measuring(LAYOUTS["frames without bounds"]).all()


@pytest.mark.parametrize(
    ("text", "name", "strength"),
    [
        ("noise=4", "noise", 4.0),
        ("noise=0", "noise", 0.0),
        ("noise=-0", "noise", 0.0),
        (" noise=4\n", "noise", 4.0),
        ("noise=1e-3", "noise", 0.001),
        ("noise=255", "noise", 255.0),
        ("delayed=3.0", "delayed", 3.0),
        ("blur=0.5", "blur", 0.5),
        ("mine.py:fog", "mine.py:fog", 1.0),
        ("mine.py:fog=0.25", "mine.py:fog", 0.25),
        ("a=b/mine.py:fog=2", "a=b/mine.py:fog", 2.0),
        ("package.module:fog=300", "package.module:fog", 300.0),
        ("Nebel/Düse.py:fog", "Nebel/Düse.py:fog", 1.0),
    ],
)
def test_a_condition_is_read_from_text_and_its_label_reads_the_same(text, name, strength):
    condition = parse_condition(text, "frames")
    assert condition == Condition(name=name, strength=strength)
    assert str(condition.strength) == str(strength)
    assert parse_condition(condition.label, "frames") == condition


@pytest.mark.parametrize("strength", [0.1234567890123, 4.0000001, 1e-9, 1e22, 1 / 3])
def test_a_label_holds_the_whole_strength(strength):
    condition = Condition(name="a.py:fog", strength=strength)
    assert parse_condition(condition.label, "frames") == condition


def test_the_effect_names_the_strength_in_words():
    assert Condition(name="lost", strength=0.1).effect.startswith(
        "each frame is lost with probability 0.1;"
    )
    assert Condition(name="a.py:fog", strength=1).effect == "custom"


NAMES = f"expected standard, {', '.join(CONDITIONS)}, or FILE.py:function, received "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"conditions: {NAMES}nothing"),
        ("=4", f"conditions: {NAMES}nothing"),
        ("nois=4", f"conditions: {NAMES}'nois', did you mean 'noise'?"),
        ("NOISE", f"conditions: {NAMES}'NOISE'"),
        ("шум=1", f"conditions: {NAMES}'шум'"),
        ("noise=", "conditions.noise: expected a number from 0 to 255 (levels of a frame, or a "
         "share of each element's spread), received nothing"),
        ("sticky=nan", "conditions.sticky: expected a number from 0 to 1 (probability), "
         "received nan"),
        ("sticky=inf", "conditions.sticky: expected a number from 0 to 1 (probability), "
         "received inf"),
        ("sticky=-1", "conditions.sticky: expected a number from 0 to 1 (probability), "
         "received -1"),
        ("sticky=1e9", "conditions.sticky: expected a number from 0 to 1 (probability), "
         "received 1e9"),
        ("sticky=0.1=2", "conditions.sticky: expected a number from 0 to 1 (probability), "
         "received 0.1=2"),
        ("shift=85", "conditions.shift: expected a number from 0 to 84 (pixels), received 85"),
        ("shift=1.5", "conditions.shift: expected a whole number, received 1.5"),
        ("blur", "conditions.blur: expected blur=STRENGTH (pixels), received blur"),
        ("a.py:f=inf", "conditions.a.py:f: expected a number of at least 0, received inf"),
        ("a.py:f=nan", "conditions.a.py:f: expected a number of at least 0, received nan"),
        ("a.py:f=", "conditions.a.py:f: expected a number of at least 0, received nothing"),
        ("x" * (MAX_NAME + 1), "conditions: expected a name of at most 256 printable characters, "
         "received 257 characters"),
        ("a.py:\udc80", "conditions: expected a name of at most 256 printable characters, "
         r"received 'a.py:\udc80'"),
        ("noise\0=4", "conditions: expected a name of at most 256 printable characters, "
         r"received 'noise\x00'"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_with_its_limit_and_the_text(text, message):
    with pytest.raises(InvalidInputError) as raised:
        parse_condition(text, "frames")
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("name", "layout", "message"),
    [
        ("brightness", "parts", "conditions.brightness: expected a condition for vectors, "
         "received one for frames"),
        ("held", "frames", "conditions.held: expected a condition for frames, "
         "received one for vectors"),
        ("noise", "flags", "conditions.noise: expected observations with elements that are "
         "quantities, received categories and flags"),
        ("bias", "one-hot", "conditions.bias: expected observations with elements that are "
         "quantities, received categories and flags"),
    ],
)  # fmt: skip
def test_a_condition_that_these_observations_cannot_have_is_refused(name, layout, message):
    with pytest.raises(InvalidInputError) as raised:
        require_applicable(Condition(name=name, strength=1), LAYOUTS[layout])
    assert str(raised.value) == message


def test_a_condition_of_ones_own_is_for_every_kind():
    for spec in LAYOUTS.values():
        require_applicable(Condition(name="a.py:fog", strength=1), spec)


def test_a_name_without_a_row_has_none():
    with pytest.raises(InvalidInputError, match=r"received 'a\.py:fog'"):
        _ = Condition(name="a.py:fog", strength=1).row


@pytest.mark.parametrize("strength", [-1, np.nan, np.inf])
def test_a_report_cannot_hold_a_strength_that_is_none(strength):
    with pytest.raises(ValueError, match="strength"):
        Condition(name="noise", strength=strength)
