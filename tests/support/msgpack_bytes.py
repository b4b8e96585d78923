"""MessagePack files as flax writes them."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import numpy as np


def pack(value: Any) -> bytes:
    """MessagePack with arrays as flax writes them."""
    if isinstance(value, dict):
        head = struct.pack(">BH", 0xDE, len(value))
        return head + b"".join(pack(part) for pair in value.items() for part in pair)
    if isinstance(value, str):
        return struct.pack(">BB", 0xD9, len(value)) + value.encode()
    if isinstance(value, float):
        return struct.pack(">Bd", 0xCB, value)
    if isinstance(value, int):
        return struct.pack(">Bi", 0xD2, value)
    if isinstance(value, tuple | list):
        return struct.pack(">BH", 0xDC, len(value)) + b"".join(map(pack, value))
    if isinstance(value, bytes):
        return struct.pack(">BI", 0xC6, len(value)) + value
    inner = pack((value.shape, value.dtype.name, value.tobytes()))
    return struct.pack(">BIb", 0xC9, len(inner), 1) + inner


def layers(*widths: int, start: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(1)
    return {
        f"Dense_{start + i}": {
            "kernel": generator.normal(size=pair).astype(np.float32) / pair[0] ** 0.5,
            "bias": generator.normal(size=pair[1]).astype(np.float32),
        }
        for i, pair in enumerate(itertools.pairwise(widths))
    }
