from __future__ import annotations

import pytest

from slimq.importing.files.msgpack import MessagePackError, read_msgpack

# flax.serialization.to_bytes({"a": np.arange(3, dtype=np.float32), "n": 300, "t": True})
FLAX = bytes.fromhex(
    "83a161c71901939103a7666c6f61743332c40c000000000000803f00000040a16ecd012ca174c3"
)


def test_what_flax_writes_is_read() -> None:
    found = read_msgpack(FLAX)
    assert found["a"].tolist() == [0, 1, 2]
    assert found["a"].dtype == "float32"
    assert (found["n"], found["t"]) == (300, True)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"\x7f", 127),
        (b"\xff", -1),
        (b"\xc0", None),
        (b"\xcb\x3f\xf8\0\0\0\0\0\0", 1.5),
        (b"\xd1\xff\x00", -256),
        (b"\xa2hi", "hi"),
        (b"\xd9\x02hi", "hi"),
        (b"\xc4\x01x", b"x"),
        (b"\x92\x01\x90", [1, []]),
        (b"\xdc\x00\x01\x05", [5]),
        (b"\xde\x00\x01\xa1k\x05", {"k": 5}),
    ],
)
def test_each_kind_of_value_is_read(content: bytes, value: object) -> None:
    assert read_msgpack(content) == value


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "ends early"),
        (FLAX[:-1], "ends early"),
        (FLAX + b"\x01", "1 bytes left"),
        (b"\xc1", "byte 0xc1"),
        (b"\x91" * 40 + b"\x01", "levels"),
        (b"\xd4\x05\x00", "extension of kind 5"),
        (FLAX.replace(b"\x91\x03", b"\x91\x04"), "has 12 bytes"),
        (FLAX.replace(b"float32", b"float77"), "type 'float77'"),
        (b"\xa2\xff\xff", "is not MessagePack"),
    ],
)
def test_damaged_bytes_are_refused(content: bytes, problem: str) -> None:
    with pytest.raises(MessagePackError, match=problem):
        read_msgpack(content)
