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

from slimq_service.http.worker_table import State, Worker, WorkerTable

SECONDS = 120.0
"""How long another worker may take; loading many variants takes its time."""
LOOK_SECONDS = 0.25
"""Between two checks whether workers whose answers are awaited have stalled."""
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

    def __init__(
        self, folder: Path | None = None, own: str = "", table: WorkerTable | None = None
    ) -> None:
        """Looks at nothing yet.

        Args:
            folder: where the workers' sockets are; None with a single process, or where there is
                no such folder.
            own: the name of this worker's socket.
            table: the states of all workers, None for a single process.
        """
        self._folder, self._own, self._table = folder, own, table
        self._address = None if folder is None else (str(folder / own), None)
        self._abandoned: set[asyncio.Future[PeerAnswer | None]] = set()
        """Requests whose answers are no longer awaited."""

    @property
    def table(self) -> WorkerTable | None:
        """The states of all workers, None for a single process."""
        return self._table

    def workers(self) -> list[Worker]:
        """Every live worker, this one included; none for a single process."""
        return [] if self._table is None else list(self._table.alive())

    def sent(self, scope: Scope) -> bool:
        """Whether another worker sent a request: it came by this worker's own socket.

        `server` is the name that the listening socket was bound to, which no client can choose. The
        service may listen for clients on a Unix socket too; that one has another name.
        """
        return self._address is not None and scope.get("server") == self._address

    async def ask(self, request: Request, body: bytes) -> list[PeerAnswer]:
        """Sends the same request to every other worker.

        A dead one is left out, as it holds nothing. A stalled one is sent the request, since it may
        recover, but its answer is not awaited.
        """
        if self._folder is None or self.sent(request.scope):
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
                self._abandoned.add(one)
                one.add_done_callback(self._abandoned.discard)
        answers = [one.result() for one in asking.values() if one.done()]
        return [answer for answer in answers if answer is not None]


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
