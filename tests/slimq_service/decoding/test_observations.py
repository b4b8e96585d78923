from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimq.core.errors import InvalidInputError, ObservationError, SlimqError
from slimq.core.observation import ObservationSpec
from slimq_service.decoding.nested_lists import SPARE_LISTS
from slimq_service.decoding.observations import JSON, MEDIA_TYPES, NPY, RAW, parse, read_npy
from slimq_service.errors import LimitError, MalformedError
from wire import npy_header

VECTOR = ObservationSpec(dtype="float32", shape=(4,))
IMAGE = ObservationSpec(dtype="uint8", shape=(2, 3))


def npy(array: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def read(media: str, body: bytes, spec: ObservationSpec = VECTOR, limit: int = 8) -> Any:
    return parse(media, body, spec, limit).observations(spec, limit)


def test_the_three_media_types_give_the_same_observations() -> None:
    array = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    text = str({"observations": array.tolist()}).replace("'", '"').encode()
    for media, body in ((JSON, text), (RAW, array.tobytes()), (NPY, npy(array))):
        found = read(media, body)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, array)


def test_frames_round_trip_through_json() -> None:
    array = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20
    body = str({"observations": array.tolist()}).replace("'", '"').encode()
    np.testing.assert_array_equal(read(JSON, body, IMAGE), array)


def test_a_single_observation_needs_no_batch() -> None:
    assert read(JSON, b'{"observations": [1, 2, 3, 4]}').shape == (1, 4)


def test_json_may_name_the_variant() -> None:
    assert parse(JSON, b'{"observations": [], "variant": "int8"}', VECTOR, 8).variant == "int8"
    assert parse(JSON, b'{"observations": [], "variant": null}', VECTOR, 8).variant is None


WRONG_JSON = [
    (b"", MalformedError, "body: expected valid JSON"),
    (b"{", MalformedError, "valid JSON"),
    (b"[1, 2]", InvalidInputError, "body: expected a JSON object"),
    (b"\xff\xfe", MalformedError, "UTF-8"),
    (b'{"observations": ' + b"[" * 4000, MalformedError, "observations: expected valid JSON"),
    (b'{"observations": [[1, NaN, 3, 4]]}', ObservationError, "observations: .*NaN at byte 22"),
    (b'{"observations": [[1, -Infinity, 3, 4]]}', ObservationError, "observations: .*-Infinity"),
    (b'{"observations": [[1, Infinity, 3, 4]]}', ObservationError, "observations: .*Infinity"),
    ('{"variant": "é", "observations": [NaN]}'.encode(), ObservationError, "observations.*byte 35"),
    (b'{"observations": [[1, 1e999, 3, 4]]}', MalformedError, "observations: .*infinity"),
    (
        b'{"observations": [[1, 2, 3, 4], [1, 1e39, 3, 4]]}',
        ObservationError,
        r"^observations\[1\]\[1\]: expected a finite float32, received 1e\+39$",
    ),
    (b'{"variant": "int8"}', InvalidInputError, "observations: .*received nothing"),
    (b'{"observations": [], "varaint": "a"}', InvalidInputError, "did you mean 'variant'"),
    (b'{"observations": [], "variant": 3}', InvalidInputError, "variant: .*number 3"),
    (b'{"observations": [], "variant": "%s"}' % (b"x" * 65), InvalidInputError, "at most 64 ch"),
    (b'{"observations": null}', ObservationError, "received null"),
    (b'{"observations": "abc"}', ObservationError, "the string 'abc'"),
    (b'{"observations": {}}', ObservationError, "an empty object"),
    (b'{"observations": []}', ObservationError, "empty batch"),
    (b'{"observations": [[]]}', ObservationError, r"observations\[0\]: .*4 numbers.*0 elements"),
    (
        b'{"observations": [[[1,2,3,4]]]}',
        ObservationError,
        r"\(batch, 4\), received a list of shape \(1, 1, 4\)$",
    ),
    (b'{"observations": [[1,2,3]]}', ObservationError, r"observations\[0\]: .*3 elements"),
    (b'{"observations": [[1,2,3,4],[1,2,3]]}', ObservationError, r"observations\[1\]: "),
    (b'{"observations": [[1,2,3,4],5]}', ObservationError, r"observations\[1\]: .*number 5"),
    (b'{"observations": [[1,2,"3",4]]}', ObservationError, r"observations\[0\]\[2\]: .*'3'"),
    (b'{"observations": [[1,2,true,4]]}', ObservationError, r"observations\[0\]\[2\]: .*true"),
    (b'{"observations": [[1,2,null,4]]}', ObservationError, r"observations\[0\]\[2\]: .*null"),
    (b'{"observations": [[1,2,[3],4]]}', ObservationError, r"observations\[0\]\[2\]: .*list of 1"),
    (b'{"observations": [[[[[1,2,3,4]]]]]}', ObservationError, r"a list of shape \(1, 1, 1, …\)$"),
    (b'{"observations": [1,2,3]}', ObservationError, r"observations: .*4 numbers.*3 elements$"),
    (b'{"observations": [null]}', ObservationError, r"observations\[0\]: .*4 numbers.*null$"),
    (
        b'{"observations": [null,2,3,4]}',
        ObservationError,
        r"observations\[0\]: .*a number, .*null$",
    ),
    (
        b'{"observations": ["1,2,3,4"]}',
        ObservationError,
        r"observations\[0\]: .*4 numbers.*'1,2,3,4'$",
    ),
    (
        b'{"observations": [true,2,3,4]}',
        ObservationError,
        r"observations\[0\]: .*a number, .*true$",
    ),
    (b'{"observations": {"0":1,"1":2,"2":3}}', ObservationError, r"^observations: .*typed array\?"),
    (
        b'{"observations": [{"0":1,"1":2}]}',
        ObservationError,
        r"^observations\[0\]: .*typed array\?",
    ),
    (
        b'{"observations": [{"a":1}]}',
        ObservationError,
        r"^observations\[0\]: .*with the key \"a\"$",
    ),
    (b'{"observations": [[1,2,3,{}]]}', ObservationError, r"\[0\]\[3\]: .*number, .*empty object$"),
    (b'{"observations": [[1,2,3,4],{"0":1}]}', ObservationError, r"observations\[1\]: .*array\?"),
    (b'{"0":1,"1":2,"2":3,"3":4}', InvalidInputError, r"^body: .*observations, .*typed array\?"),
    (b"null", InvalidInputError, "^body: .*received null$"),
]
WRONG_FRAMES = [
    (b'{"observations": [1,2,3]}', r"\(batch, 2, 3\), received a list of shape \(3\)$"),
    (b'{"observations": {"0":1,"1":2,"2":3}}', r"^observations: .*typed array\?"),
    (b'{"observations": [{"0":1,"1":2,"2":3}]}', r"^observations\[0\]: .*lists of num.*array\?"),
    (b'{"observations": [[{"0":1,"1":2,"2":3}]]}', r"^observations\[0\]\[0\]: .*array\?"),
    (b'{"observations": [[[null,2,3],[4,5,6]]]}', r"^observations\[0\]\[0\]\[0\]: .*null$"),
    (b'{"observations": [[1,2,3],null]}', r"^observations\[1\]: .*list of 3 numbers, .*null$"),
    (b'{"observations": [null]}', r"^observations\[0\]: .*list of 2 lists, received null$"),
]


@pytest.mark.parametrize(("body", "message"), WRONG_FRAMES)
def test_errors_in_frames_name_the_element(body: bytes, message: str) -> None:
    with pytest.raises(ObservationError, match=message):
        read(JSON, body, IMAGE)


@pytest.mark.parametrize(("body", "kind", "message"), WRONG_JSON)
def test_errors_in_json_name_the_field(body: bytes, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        read(JSON, body)


@pytest.mark.parametrize("value", ["256", "-1", "1.5", "1e30", "18446744073709551616"])
def test_frames_with_values_out_of_range_are_refused(value: str) -> None:
    body = f'{{"observations": [[[1,2,3],[4,5,{value}]]]}}'.encode()
    with pytest.raises(ObservationError, match="integers from 0 to 255"):
        read(JSON, body, IMAGE)


def test_whole_floats_are_accepted_as_bytes() -> None:
    body = b'{"observations": [[[1.0,2,3],[4,5,255.0]]]}'
    assert read(JSON, body, IMAGE)[0, 1, 2] == 255


@pytest.mark.parametrize("media", MEDIA_TYPES)
def test_a_batch_over_the_limit_is_refused_in_every_media_type(media: str) -> None:
    array = np.zeros((9, 4), np.float32)
    bodies = {JSON: b'{"observations": %s}' % str(array.tolist()).encode()}
    bodies |= {RAW: array.tobytes(), NPY: npy(array)}
    with pytest.raises(LimitError, match="at most 8 observations, received 9 observations"):
        read(media, bodies[media])


def test_json_with_far_too_many_lists_is_refused_without_parsing() -> None:
    most = 8 * (1 + 2) + SPARE_LISTS
    volume = ObservationSpec(dtype="uint8", shape=(2, 3))
    for piece, count in ((b"[],", most), (b"{},", most), (b'{"a":0},', most // 2)):
        body = b'{"observations": [' + piece * count + b" no JSON"
        with pytest.raises(LimitError, match=r"at most 8 observations, received a body of \d+ li"):
            read(JSON, body, volume)
    with pytest.raises(MalformedError):
        read(JSON, b'{"observations": [' + b"[]," * (most - 3) + b" no JSON", volume)


def test_a_full_batch_is_within_the_limit_of_lists() -> None:
    spec = ObservationSpec(dtype="uint8", shape=(40, 30, 1))
    array = np.zeros((8, *spec.shape), np.uint8)
    body = str({"observations": array.tolist(), "variant": "[" * 64}).replace("'", '"').encode()
    assert read(JSON, body, spec).shape == array.shape


@pytest.mark.parametrize("length", [0, 1, 15, 17])
def test_raw_bytes_of_a_wrong_length_are_refused(length: int) -> None:
    with pytest.raises(ObservationError, match="multiple of 16 bytes"):
        read(RAW, bytes(length))


def test_raw_bytes_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ObservationError, match=r"body\[0\]\[2\]: .*float32, received nan"):
        read(RAW, np.array([1, 2, np.nan, 4], np.float32).tobytes())


def test_npy_in_other_byte_and_memory_orders_is_accepted() -> None:
    array = np.arange(8, dtype=np.float32).reshape(2, 4)
    for form in (np.asfortranarray(array), array.astype(">f4"), array.astype("<f8")):
        np.testing.assert_array_equal(read(NPY, npy(form)), array)


def shaped(shape: str) -> bytes:
    return npy_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}")


WRONG_NPY = [
    (b"", "magic"),
    (b"PK\x03\x04", "magic"),
    (npy(np.zeros((1, 4), np.float32))[:-1], "16 bytes after the npy header.*15 bytes"),
    (npy(np.zeros((1, 4), np.float32)) + b"x", "17 bytes"),
    (npy(np.array([{}], dtype=object), allow_pickle=True), "numbers.*object"),
    (npy(np.array(["text"])), "numbers"),
    (npy(np.zeros(1, dtype=[("a", "f4")])), "numbers"),
    (npy(np.zeros(4, dtype=np.complex64)), "numbers"),
    (shaped("(99999999999999999,)"), r"each at most \d+, received shape \(99999999999999999\)"),
    (shaped("(-1, -4)"), r"shape \(-1, -4\)"),
    (shaped("(True, 4)") + bytes(16), r"shape \(True, 4\)"),
    (shaped("(0, 99999999999999999999999999, 4)"), r"shape \(0, a number over 2\*\*63, 4\)"),
    (shaped("(0, 4611686018427387904, 4)"), r"shape \(0, 4611686018427387904, 4\)"),
    (shaped("(0, 0x" + "f" * 4000 + ")"), "a number over"),
    (shaped("(0" + ", 90" * 15 + ")"), "valid shape"),
    (shaped("(1" + ", 1" * 16 + ")") + bytes(4), "at most 16 dimensions"),
    (npy_header("__import__('os').system('true')"), "npy file"),
    (npy_header("(" * 3000), "npy file"),
    (npy_header("{'descr': '<f4'"), "npy file"),
    (b"\x93NUMPY\x09\x00", "npy file"),
    (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}", "npy file"),
]


@pytest.mark.parametrize(("body", "message"), WRONG_NPY)
def test_wrong_npy_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        read_npy(body)


@settings(max_examples=150, deadline=None)
@given(media=st.sampled_from(MEDIA_TYPES), body=st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_slimq_errors(media: str, body: bytes) -> None:
    for start in (b"", b'{"observations": ', b"\x93NUMPY\x01\x00v\x00{'descr': "):
        with contextlib.suppress(SlimqError):
            read(media, start + body)
