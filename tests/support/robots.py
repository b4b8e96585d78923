"""Messages as clients of openpi write them, and answers as they read them."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np


def pack(value: Any) -> bytes:
    """MessagePack with arrays and NumPy's scalars, as `openpi_client.msgpack_numpy.packb`."""
    return msgspec.msgpack.encode(value, enc_hook=encode)


def encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(type(value))


def unpack(content: bytes) -> Any:
    """As `openpi_client.msgpack_numpy.unpackb`."""
    return revive(msgspec.msgpack.decode(content))


def revive(value: Any) -> Any:
    if isinstance(value, list):
        return [revive(part) for part in value]
    if not isinstance(value, dict):
        return value
    if b"__ndarray__" in value:
        return np.ndarray(value[b"shape"], value[b"dtype"], value[b"data"])
    return {key: revive(part) for key, part in value.items()}


def array_map(**changes: Any) -> dict[bytes, Any]:
    """The map of an array of four float32 zeros, with other values of some keys; None drops one."""
    whole = {"__ndarray__": True, "data": bytes(16), "dtype": "<f4", "shape": [4], **changes}
    return {key.encode(): value for key, value in whole.items() if value is not None}
