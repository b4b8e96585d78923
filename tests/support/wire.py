"""Bytes as they go over a connection."""

from __future__ import annotations

import socket
import struct
from typing import Any


def receive_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    parts = []
    while part := connection.recv(65_536):
        parts.append(part)
    return b"".join(parts)


def npy_header(text: str) -> bytes:
    """The head of a `.npy` file with this description."""
    content = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(content).to_bytes(2, "little") + content


def handshake(server: Any, path: str = "/v1/policies/tiny/stream", **headers: str) -> socket.socket:
    """A connection whose WebSocket was accepted, for frames written by hand."""
    connection = server.connect()
    fields = {
        "Host": "test",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version": "13",
        **headers,
    }
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        part = connection.recv(1)
        assert part, answer
        answer += part
    assert answer.startswith(b"HTTP/1.1 101"), answer
    return connection


def frame(opcode: int, payload: bytes, *, final: bool = True, masked: bool = True) -> bytes:
    """A frame of up to 64 KiB; the mask is zeros, so that the payload is as it is."""
    length = (
        len(payload).to_bytes(1) if len(payload) < 126 else struct.pack("!BH", 126, len(payload))
    )
    head = bytes([(0x80 if final else 0) | opcode, (0x80 if masked else 0) | length[0]])
    return head + length[1:] + (bytes(4) if masked else b"") + payload
