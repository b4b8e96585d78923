"""Bytes as they go over a connection."""

from __future__ import annotations

import socket


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
