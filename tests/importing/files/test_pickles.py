from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from policy_files import Payload
from slimq.importing.files.pickles import (
    Global,
    Made,
    PickleError,
    globals_of,
    read_pickle,
    to_array,
)


class Plain:
    def __init__(self) -> None:
        self.numbers = [1, 2.5, None, True, "text"]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_read_with_every_protocol(protocol: int) -> None:
    value = {"a": [1, -5, 2**70, 0.5], "b": ("x", None, (True,)), "c": {"d": []}}
    assert read_pickle(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(2, 6))
def test_an_object_is_its_class_and_its_attributes(protocol: int) -> None:
    found = read_pickle(pickle.dumps(Plain(), protocol))
    assert isinstance(found, Made)
    assert found.maker == Global(Plain.__module__, "Plain")
    assert found.fields == vars(Plain())


def test_an_ordered_dict_keeps_its_entries_in_order() -> None:
    found = read_pickle(pickle.dumps(OrderedDict(b=1, a=2)))
    assert list(found.entries.items()) == [("b", 1), ("a", 2)]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "u1", "?"])
def test_arrays_are_rebuilt(protocol: int, dtype: str) -> None:
    array = (np.arange(12).reshape(3, 4) % 3).astype(dtype)
    for values in (array, np.asfortranarray(array), array[0, 1]):
        found = to_array(read_pickle(pickle.dumps(values, protocol)))
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, values)


def test_nothing_is_called(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    content = pickle.dumps({"x": Payload(trace)})
    found = read_pickle(content)["x"]
    assert found.maker == Global("io", "open")
    assert globals_of(content) == [Global("io", "open")]
    assert not trace.exists()
    pickle.loads(content)["x"].close()
    assert trace.exists(), "the pickle is harmless, so the test shows nothing"


def test_no_module_is_imported() -> None:
    assert read_pickle(b"cno_such_module\nthing\n.") == Global("no_such_module", "thing")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        b"\x80\x04",
        b"\x80\x04K\x01",
        b"N0.",
        b"(.",
        b"h\x05.",
        b"\x80\x04}K\x01s.",
    ],
)
def test_what_is_no_pickle_is_refused(content: bytes) -> None:
    with pytest.raises(PickleError, match="is not a pickle"):
        read_pickle(content)


def test_references_out_of_the_pickle_are_refused() -> None:
    with pytest.raises(PickleError, match="objects outside"):
        read_pickle(b"\x80\x05\x97.")


def test_keys_that_would_be_hashed_deeply_are_refused() -> None:
    with pytest.raises(PickleError, match="key of type tuple"):
        read_pickle(pickle.dumps({(1, 2): 3}))


def test_an_array_of_objects_or_of_too_many_bytes_is_refused() -> None:
    objects = np.array([{}, {}], dtype=object)
    with pytest.raises(PickleError, match="type of numbers"):
        to_array(read_pickle(pickle.dumps(objects, 4)))
    short = pickle.dumps(np.zeros(4, np.float32), 4).replace(b"K\x04\x85", b"K\x09\x85")
    with pytest.raises(PickleError, match="has 16 bytes"):
        to_array(read_pickle(short))


def test_a_space_of_gymnasium_is_read_without_it() -> None:
    space = gymnasium.spaces.Box(-1, 2, (2, 3), np.float32)
    found = read_pickle(pickle.dumps(space))
    assert found.maker == Global("gymnasium.spaces.box", "Box")
    np.testing.assert_array_equal(to_array(found.fields["high"]), space.high)


TUPLES = b")" + b"\x85" * 5_000
DOUBLING = b")" + b"2\x86" * 60
"""A tuple of two of itself, sixty times over: showing or hashing it would never end."""


@pytest.mark.parametrize("nested", [TUPLES, DOUBLING], ids=["deep", "doubling"])
@pytest.mark.parametrize(
    "program",
    [b"%b\x8c\x01a\x93.", b"\x8c\x01a%b\x93.", b"}%bK\x01s.", b"\x8c\x01a)%b\x92."],
    ids=["module", "name", "key", "keywords"],
)
def test_nested_values_are_refused_without_being_shown(nested: bytes, program: bytes) -> None:
    with pytest.raises(PickleError) as refused:
        read_pickle(b"\x80\x04" + program % nested)
    assert len(str(refused.value)) < 200
    assert globals_of(b"\x80\x04" + program % nested) == []


@pytest.mark.parametrize("nested", [TUPLES, DOUBLING], ids=["deep", "doubling"])
def test_arrays_of_nested_values_are_refused_without_showing_them(nested: bytes) -> None:
    value = read_pickle(b"\x80\x04" + nested + b".")
    dtype = Made(Global("numpy", "dtype"), ("f4",))
    scalar = Global("numpy.core.multiarray", "scalar")
    of_buffer = Global("numpy.core.numeric", "_frombuffer")
    for made in (
        value,
        Made(value, ()),
        Made(scalar, (dtype, value)),
        Made(scalar, (Made(Global("numpy", "dtype"), (value,)), b"0000")),
        Made(scalar, (dtype, Made(Global("_codecs", "encode"), (value,)))),
        Made(of_buffer, (b"0000", dtype, (value,), "C")),
    ):
        with pytest.raises(PickleError, match="expected a") as refused:
            to_array(made)
        assert len(str(refused.value)) < 200


def test_long_names_are_not_shown() -> None:
    with pytest.raises(PickleError, match="a name of 5,000 characters"):
        read_pickle(b"c" + b"a" * 5_000 + b"\nb\n.")
