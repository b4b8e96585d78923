"""Streams to the application in this process, and to a real one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from robots import unpack
from slimq.core.observation import FrameStack, ObservationSpec
from waiting import until

FRAMES = ObservationSpec(dtype="uint8", shape=(4, 84, 84), stack=FrameStack(count=4))
TINY = ObservationSpec(dtype="float32", shape=(4,))


class Wire:
    """A WebSocket to an application in this process, with both ends of the ASGI channel at hand."""

    def __init__(
        self,
        app: Any,
        path: str,
        extensions: Any = ("websocket.http.response",),
        headers: Any = (),
    ) -> None:
        path, _, query = path.partition("?")
        self.incoming: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: asyncio.Queue[Any] = asyncio.Queue()
        self.readable = asyncio.Event()
        self.readable.set()
        self.broken = False
        scope = {
            "type": "websocket",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": list(headers),
            "extensions": {name: {} for name in extensions},
        }
        self.incoming.put_nowait({"type": "websocket.connect"})
        self.task = asyncio.ensure_future(app(scope, self.incoming.get, self._send))

    async def _send(self, message: Any) -> None:
        await self.readable.wait()
        if self.broken:
            raise OSError("broken")
        self.sent.put_nowait(message)

    def put(self, *messages: Any) -> None:
        """Sends frames (arrays or bytes), objects or text."""
        for message in messages:
            key = "bytes" if isinstance(message, bytes | np.ndarray) else "text"
            if isinstance(message, np.ndarray):
                message = message.tobytes()
            elif not isinstance(message, bytes | str):
                message = json.dumps(message)
            self.incoming.put_nowait({"type": "websocket.receive", key: message})

    def leave(self, code: int = 1000) -> None:
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": code})

    async def take(self) -> Any:
        """What the application sends next."""
        async with asyncio.timeout(10):
            return await self.sent.get()

    async def accepted(self) -> Wire:
        assert (await self.take())["type"] == "websocket.accept"
        return self

    async def answer(self) -> Any:
        message = await self.take()
        assert message["type"] == "websocket.send", message
        return json.loads(message["text"]) if "text" in message else unpack(message["bytes"])

    async def ask(self, message: Any) -> Any:
        self.put(message)
        return await self.answer()

    async def closed(self) -> tuple[int, str]:
        """The code and reason of the closing that comes next, once the application is done."""
        message = await self.take()
        assert message["type"] == "websocket.close", message
        await asyncio.wait_for(self.task, 10)
        return message["code"], message["reason"]

    async def refused(self) -> tuple[int, dict[str, str], Any]:
        """Status, headers and problem of the answer instead of a stream."""
        start, body = await self.take(), await self.take()
        assert start["type"] == "websocket.http.response.start"
        self.leave(1006)
        self.leave(1006)
        await asyncio.wait_for(self.task, 10)
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        return start["status"], headers, json.loads(body["body"])

    async def gone(self, code: int = 1000) -> None:
        self.leave(code)
        await asyncio.wait_for(self.task, 10)


@pytest.fixture
def newest() -> np.ndarray:
    """Six frames of an episode."""
    return np.random.default_rng(5).integers(0, 256, size=(6, 84, 84), dtype=np.uint8)


def stacked(frames: Any) -> np.ndarray:
    """The observation `(1, 4, 84, 84)` after these frames of an episode."""
    observation: Any = FRAMES.padding()
    for frame in frames:
        observation = FRAMES.push(observation, frame[np.newaxis])
    return observation


@pytest.fixture
def stack() -> Callable[[Any], np.ndarray]:
    return stacked


@pytest.fixture
def open_wire() -> Callable[..., Any]:
    """`await open_wire(service, path, **options)`: an accepted stream."""

    async def begin(service: Any, path: str, **options: Any) -> Wire:
        return await Wire(service.app.routes, path, **options).accepted()

    return begin


@pytest.fixture
def wire() -> type[Wire]:
    return Wire


def metric(server: Any, line: str) -> float:
    """A series of a real process."""
    rows = httpx.get(server.url + "/metrics").text.splitlines()
    values = [row.rpartition(" ")[2] for row in rows if row.startswith(line + " ")]
    assert len(values) == 1, f"{line}: {len(values)} series"
    return float(values[0])


def settle(server: Any, line: str, value: float) -> None:
    """Waits until a series has a value."""
    until(lambda: metric(server, line) == value, 10, f"{line} {value}", every=0.02)


@pytest.fixture
def metric_of() -> Callable[[Any, str], float]:
    return metric


@pytest.fixture
def settled() -> Callable[[Any, str, float], None]:
    return settle
