"""The other workers of one service: what one is told, all are told.

Each worker listens on a socket in a folder that only they can enter, and answers there as on its
port. A request that came by such a socket is never passed on.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import httpx
from fastapi import Request
from starlette.types import Scope

from slimq_service.http.worker_table import State, Worker, read_workers

SECONDS = 120.0
"""How long another worker may take; loading many variants takes its time."""
FOLDER_PREFIX = "slimq-"
"""Of the name of the workers' folder."""
LOOK_SECONDS = 0.25
"""Between two looks at whether those that are waited for still go on."""
PATTERN = "worker-*.sock"


def socket_name(index: int) -> str:
    """Of a worker's own socket, as `PATTERN` finds it."""
    return PATTERN.replace("*", str(index))


@dataclass(frozen=True)
class PeerAnswer:
    """What another worker answered."""

    status: int
    body: bytes


class Peers:
    """The other workers, found anew for each request: one may have been restarted."""

    def __init__(self, folder: Path | None = None, own: str = "") -> None:
        """Looks at nothing yet.

        Args:
            folder: where the workers' sockets are; None where there is one process.
            own: the name of this worker's socket.
        """
        self._folder, self._own = folder, own
        self._left: set[asyncio.Future[PeerAnswer | None]] = set()
        """Requests that nobody waits for any more."""

    @property
    def folder(self) -> Path | None:
        """Of the workers' sockets, metrics and states."""
        return self._folder

    def workers(self) -> list[Worker]:
        """Every worker that lives, this one too; none where there is one process."""
        return [] if self._folder is None else read_workers(self._folder)

    async def ask(self, request: Request, body: bytes) -> list[PeerAnswer]:
        """The same request to every other worker.

        A dead one is left out, as it knows nothing. One that has stalled is told, for it may go on,
        and not waited for.
        """
        if self._folder is None or from_peer(request.scope):
            return []
        paths = sorted(path for path in self._folder.glob(PATTERN) if path.name != self._own)
        asking = {
            path.name: asyncio.ensure_future(
                _ask(path, request.method, request.scope["path"], body)
            )
            for path in paths
        }
        waiting = set(asking.values())
        while waiting:
            stalled = {socket_name(w.index) for w in self.workers() if w.state is State.STALLED}
            waiting = {one for name, one in asking.items() if name not in stalled}
            waiting = {one for one in waiting if not one.done()}
            if waiting:
                await asyncio.wait(waiting, timeout=LOOK_SECONDS)
        for one in asking.values():
            if not one.done():
                self._left.add(one)
                one.add_done_callback(self._left.discard)
        answers = [one.result() for one in asking.values() if one.done()]
        return [answer for answer in answers if answer is not None]


def from_peer(scope: Scope) -> bool:
    """Whether a request came by a socket in the file system, from another worker of the service."""
    name, port = scope.get("server") or ("", 0)
    return port is None and str(name).startswith("/")


async def _ask(path: Path, method: str, target: str, body: bytes) -> PeerAnswer | None:
    transport = httpx.AsyncHTTPTransport(uds=str(path), verify=False)
    async with httpx.AsyncClient(transport=transport, timeout=SECONDS) as client:
        try:
            answer = await client.request(method, f"http://peer{target}", content=body)
        except httpx.TimeoutException:  # it lives, and may yet do it
            return PeerAnswer(504, f"no answer in {SECONDS:g} s".encode())
        except httpx.TransportError:
            return None
    return PeerAnswer(answer.status_code, answer.content)
