from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parts import SPECS, draw_parts
from robots import array_map, pack
from slimq.core.errors import InvalidInputError, ObservationError, SlimqError
from slimq.core.observation import ObservationSpec
from slimq_service.decoding.msgpack_arrays import (
    DTYPES,
    MAX_ENTRIES,
    MAX_LIST_BYTES,
    kind_of_value,
    read_array,
    read_flag,
    read_map,
    read_observation,
    read_text,
)
from slimq_service.errors import LimitError, MalformedError

TINY = ObservationSpec(dtype="float32", shape=(4,))
FRAME = ObservationSpec(dtype="uint8", shape=(2, 3))


def raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(value if isinstance(value, bytes) else pack(value))


def observation(value: Any, spec: ObservationSpec = TINY) -> Any:
    return read_observation(raw(value), spec, "observation")


def test_an_array_is_read_without_a_copy() -> None:
    numbers = np.arange(6, dtype=np.uint8).reshape(2, 3)
    content = pack(numbers)
    array = read_array(msgspec.Raw(content), "observation")
    np.testing.assert_array_equal(array, numbers)
    assert np.shares_memory(array, np.frombuffer(content, np.uint8))


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_every_dtype_is_read_as_numpy_reads_it(name: str) -> None:
    if np.dtype(name).itemsize > 1 and name[0] == "|":
        return
    numbers = np.array([0, 1, 1, 0]).astype(name)
    array = read_array(raw(array_map(data=numbers.tobytes(), dtype=name)), "observation")
    assert array.dtype == numbers.dtype
    np.testing.assert_array_equal(array, numbers)


@pytest.mark.parametrize(
    "value",
    [
        np.float32([1, 2, 3, 4]),
        np.float64([1, 2, 3, 4]),
        np.array([1, 2, 3, 4], ">f4"),
        np.int64([1, 2, 3, 4]),
        np.float32([[1, 2, 3, 4]]),
        [1, 2, 3, 4.0],
        {key.decode(): v for key, v in array_map(data=np.float32([1, 2, 3, 4]).tobytes()).items()},
    ],
)
def test_one_observation_may_be_sent_in_several_ways(value: Any) -> None:
    found = observation(value)
    assert found.tolist() == [[1, 2, 3, 4]]
    assert found.dtype == np.float32


def test_frames_may_be_lists_or_wider_integers() -> None:
    numbers = [[1, 2, 3], [4, 5, 255]]
    for value in (numbers, np.array(numbers), np.array(numbers, np.float32)):
        found = observation(value, FRAME)
        assert (found.tolist(), found.dtype) == ([numbers], np.uint8)


@pytest.mark.parametrize("name", SPECS)
def test_parts_are_sent_by_name_as_arrays_lists_or_scalars(name: str) -> None:
    spec = SPECS[name]
    drawn = draw_parts(spec, 1)
    expected = spec.join(drawn)
    shapes = {part.name: part.shape for part in spec.parts or ()}
    one = {part: np.asarray(values[0]) for part, values in drawn.items()}
    scalars = {part: v if shapes[part] else v[()] for part, v in one.items()}
    lists = {part: v.tolist() for part, v in one.items()}
    for value in (one, scalars, lists, drawn, expected[0], expected):
        np.testing.assert_array_equal(observation(value, spec), expected)


BAD: list[tuple[Any, type[SlimqError], str]] = [
    (np.zeros(3, np.float32), ObservationError, r"an array of shape \(4,\), received shape \(3,\)"),
    (np.zeros((5, 4), np.float32), ObservationError, r"received shape \(5, 4\)"),
    (np.zeros((4, 1), np.float32), ObservationError, r"received shape \(4, 1\)"),
    (np.zeros(0, np.float32), ObservationError, r"received shape \(0,\)"),
    (np.float32(1), ObservationError, r"received shape \(\)"),
    (np.float32([0, np.nan, 0, 0]), ObservationError, r"observation\[0\]\[1\]: .*finite.*nan"),
    (np.float32([0, 0, 0, -np.inf]), ObservationError, "finite float32, received -inf"),
    (np.float64([1e300, 0, 0, 0]), ObservationError, "finite float32, received 1e[+]300"),
    (np.zeros(4, bool), ObservationError, "numbers, received dtype bool"),
    ([0, 0, 0, float("nan")], ObservationError, "finite float32, received nan"),
    (array_map(dtype="|O"), ObservationError, r"observation\.dtype: .* received '\|O'"),
    (array_map(dtype="<U1"), ObservationError, "received '<U1'"),
    (array_map(dtype="<c8"), ObservationError, "received '<c8'"),
    (array_map(dtype="<M8[s]"), ObservationError, "received '<M8"),
    (array_map(dtype="<f16"), ObservationError, "received '<f16'"),
    (array_map(dtype="f4,f4"), ObservationError, "received 'f4,f4'"),
    (array_map(dtype="x" * 999), ObservationError, "received 'x{40}'$"),
    (array_map(dtype=["<f4"]), InvalidInputError, r"observation\.dtype: .* received a list"),
    (array_map(shape=[5]), MalformedError, r"observation\.data: expected 20 bytes .* 16 bytes"),
    (array_map(data=bytes(15)), MalformedError, "expected 16 bytes .* received 15 bytes"),
    (array_map(shape=[-4]), InvalidInputError, r"observation\.shape: .*received \(-4,\)"),
    (array_map(shape=[-2, -2]), InvalidInputError, r"received \(-2, -2\)"),
    (array_map(shape=[2**28]), InvalidInputError, r"from 0 to 16, the bytes .* \(268435456,\)"),
    (array_map(shape=[2**64 - 1] * 16), InvalidInputError, "from 0 to 16"),
    (array_map(shape=[0, 2**63 - 1], data=b""), InvalidInputError, "from 0 to 0"),
    (array_map(shape=[16] * 16), MalformedError, r"expected 7\.37869762948382e\+19 bytes"),
    (array_map(shape=[4] + [1] * 16), InvalidInputError, "at most 16 lengths"),
    (array_map(shape=[1] * 200), InvalidInputError, "at most 16 lengths"),
    (array_map(shape=[4.0]), InvalidInputError, r"observation\.shape"),
    (array_map(shape=4), InvalidInputError, r"observation\.shape: .* received a number"),
    (array_map(shape=[True]), InvalidInputError, r"observation\.shape"),
    (
        array_map(data="0" * 16),
        InvalidInputError,
        r"observation\.data: expected bytes, .* a string",
    ),
    (array_map(data=[0, 0, 0, 0]), InvalidInputError, r"observation\.data: .* received a list"),
    (array_map(shape=None), InvalidInputError, "the keys '__ndarray__', 'data', 'dtype'$"),
    (array_map(pickle=b"x"), InvalidInputError, "'pickle'"),
    (array_map(__ndarray__=False), InvalidInputError, "expected true, received false"),
    (array_map(__ndarray__=1), InvalidInputError, "expected true, received a number"),
    ({}, InvalidInputError, "observation: expected an array: a map with the keys"),
    ({1: 2}, InvalidInputError, "expected an array.* received a map with other kinds of keys$"),
    ({"a": 1, b"b": 2}, InvalidInputError, "received a map with other kinds of keys$"),
    ({b"__npgeneric__": True, b"data": "1", b"dtype": "<f4"}, InvalidInputError, "a number"),
    (None, ObservationError, "null"),
    ("zeros", ObservationError, "the string 'zeros'"),
    (bytes(16) + b"x", ObservationError, "value of type bytes"),
    ([b"x", 0, 0, 0], ObservationError, r"observation\[0\]: expected a number, .* type bytes"),
    ([{1: 2}, 0, 0, 0], ObservationError, r"observation\[0\]"),
    ([0, 0, "0", 0], ObservationError, r"observation\[2\]: .*string '0'"),
    ([True, 0, 0, 0], ObservationError, r"observation\[0\]: .*true"),
    ([[0, 0, 0, 0]], ObservationError, "a list of 4 numbers"),
    ([0] * (MAX_LIST_BYTES + 1), LimitError, "at most 65536 bytes of lists; send an array"),
    (msgspec.msgpack.Ext(5, b"x"), ObservationError, "type Ext"),
]


@pytest.mark.parametrize(("value", "kind", "words"), BAD)
def test_what_is_no_observation_is_refused_by_name(
    value: Any, kind: type[SlimqError], words: str
) -> None:
    with pytest.raises(kind, match=words) as error:
        read_observation(msgspec.Raw(pack(value)), TINY, "observation")
    assert len(str(error.value)) < 600


def test_parts_that_are_missing_unknown_or_wrong_are_named() -> None:
    spec = SPECS["robot"]
    named = {name: values[0] for name, values in draw_parts(spec, 1).items()}
    first = next(iter(named))
    with pytest.raises(ObservationError, match=f"received no part '{first}'"):
        observation({name: v for name, v in named.items() if name != first}, spec)
    with pytest.raises(ObservationError, match="an unknown part 'odd'"):
        observation({**named, "odd": 1}, spec)
    with pytest.raises(ObservationError, match=rf"observation\.{first}: "):
        observation({**named, first: np.zeros((7, 7), np.float32)}, spec)
    with pytest.raises(ObservationError, match=rf"observation\.{first}"):
        observation({**named, first: array_map(dtype="|O")}, spec)


def test_maps_have_few_keys_each_once() -> None:
    many = {str(n): n for n in range(MAX_ENTRIES + 1)}
    with pytest.raises(LimitError, match=f"at most {MAX_ENTRIES} entries of a map, received 513"):
        read_map(pack(many), "message", "a map")
    with pytest.raises(MalformedError, match="each key once, received 2 keys, 1 different"):
        read_map(b"\x82\xa1a\x01\xa1a\x02", "message", "a map")
    assert list(read_map(b"\xdf\x00\x00\x00\x01\xc4\x01a\x02", "message", "a map")) == ["a"]
    assert list(read_map(b"\xde\x00\x01\xc4\x01\xff\x02", "message", "a map")) == ["�"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x81", "valid MessagePack, received Input data was truncated"),
        (pack({"observation": np.zeros(4)})[:-1], "truncated"),
        (b"\x80\x00", "trailing"),
        (b"\x81\xa1\xff\x01", "UTF-8"),
        (b"\x81\xa1a\xc1", "valid MessagePack"),
        (b"\x81\xa1a" + b"\x91" * 100_000, "nested too deeply|valid MessagePack"),
        (b"\x81\xa1a\xc6\x40\x00\x00\x00abc", "truncated"),
        (b"\x81\xa1a\xdd\x40\x00\x00\x00\x01", "truncated"),
        (b"\x81\xa1a\xc9\x40\x00\x00\x00\x05abc", "truncated"),
    ],
)
def test_what_is_no_messagepack_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(MalformedError, match=words):
        read_map(content, "message", "a map")


def test_lists_that_are_nested_too_deeply_are_refused() -> None:
    deep = b"\x91" * 4000 + b"\xc0"
    with pytest.raises(MalformedError, match="nested too deeply"):
        read_observation(msgspec.Raw(deep), TINY, "observation")


def test_long_lists_of_the_wrong_kind_are_refused_where_they_begin() -> None:
    spec = ObservationSpec(dtype="float32", shape=(84, 84))
    empty, wide = [[]] * 60_000, [[0.0] * 60, *[[[]] * 700] * 83]
    for value in (empty, wide):
        tracemalloc.start()
        with pytest.raises(
            ObservationError, match=r"lists of shape \(84, 84\), .*`array` of length"
        ):
            read_observation(raw(value), spec, "observation")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 400_000


def test_declared_lengths_allocate_nothing() -> None:
    """A gigabyte each: of bytes, of a list, and of a list in a list in a list."""
    lists = b"\xdd\x3f\xff\xff\xff" * 200
    tracemalloc.start()
    for content in (b"\xc6\x40\x00\x00\x00", b"\xdd\x10\x00\x00\x00", lists):
        with pytest.raises(MalformedError, match="truncated"):
            read_map(b"\x81\xabobservation" + content, "message", "a map")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_flags_and_texts_are_of_their_types() -> None:
    assert read_flag(raw(True), "reset")
    assert read_flag(raw(np.bool_(True)), "reset")
    assert not read_flag(raw(np.array(False)), "reset")
    for value in (1, "true", None, np.array([True]), np.uint8(1), {}):
        with pytest.raises(InvalidInputError, match=r"^reset"):
            read_flag(raw(value), "reset")
    assert read_text(raw("other"), "variant", "a name") == "other"
    for value in (1, b"other", None, ["other"]):
        with pytest.raises(InvalidInputError, match="variant: expected a name"):
            read_text(raw(value), "variant", "a name")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        *[(n, "a number") for n in (0, 127, -1, -33, 255, 2**16, 2**40, 0.5, -(2**40))],
        *[(None, "nil"), (True, "a boolean"), (b"", "bytes"), (b"x" * 300, "bytes")],
        *[("", "a string"), ("x" * 40, "a string"), ("x" * 70_000, "a string")],
        *[([], "a list"), ([0] * 20, "a list"), ({}, "a map"), (dict.fromkeys(range(20)), "a map")],
        *[(msgspec.msgpack.Ext(1, b"x" * n), "an extension") for n in (1, 3, 300)],
    ],
)
def test_the_kind_of_a_value_is_known_by_its_first_byte(value: Any, kind: str) -> None:
    assert kind_of_value(pack(value)) == kind


def test_no_value_is_nothing_and_one_byte_is_never_valid() -> None:
    assert kind_of_value(b"") == "nothing"
    assert kind_of_value(b"\xc1") == "an invalid byte"


@given(st.binary(max_size=60))
def test_random_bytes_are_refused_or_read(content: bytes) -> None:
    with contextlib.suppress(SlimqError):
        for value in read_map(content, "message", "a map").values():
            assert read_observation(value, TINY, "observation").shape == (1, 4)
