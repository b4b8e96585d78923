"""Forwards requests to the other workers of a service, so that all of them execute it.

Each worker listens on a Unix socket in a private folder, and answers there as on its port. A
request received on such a socket is never forwarded again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import httpx
from fastapi import Request
from starlette.types import Scope

from slimq_service.http.worker_table import State, Worker, WorkerTable

TIMEOUT_SECONDS = 120.0
"""Timeout for another worker's response; loading many variants takes a while."""
STALL_CHECK_SECONDS = 0.25
"""Interval between checks whether the workers awaited have stalled."""
SOCKET_PATTERN = "worker-*.sock"


def socket_name(index: int) -> str:
    """The file name of a worker's socket; matches `SOCKET_PATTERN`."""
    return SOCKET_PATTERN.replace("*", str(index))


@dataclass(frozen=True)
class PeerResponse:
    """The response of another worker."""

    status: int
    body: bytes


class Peers:
    """The other workers; looked up for each request, since they may have been restarted."""

    def __init__(
        self, folder: Path | None = None, own: str = "", table: WorkerTable | None = None
    ) -> None:
        """Accesses no files yet.

        Args:
            folder: of the workers' sockets; None for a single process, or if the folder could not
                be created.
            own: name of this worker's socket.
            table: states of all workers, None for a single process.
        """
        self._folder, self._own, self._table = folder, own, table
        self._address = None if folder is None else (str(folder / own), None)
        self._abandoned: set[asyncio.Future[PeerResponse | None]] = set()
        """Requests whose answers are no longer awaited."""

    @property
    def table(self) -> WorkerTable | None:
        """The states of all workers, None for a single process."""
        return self._table

    def workers(self) -> list[Worker]:
        """All live workers, including this one; empty for a single process."""
        return [] if self._table is None else list(self._table.alive())

    def sent(self, scope: Scope) -> bool:
        """Whether another worker sent a request, that is, on this worker's own socket.

        `server` is the path that the listening socket was bound to, which no client can choose. If
        the service listens for clients on a Unix socket, too, that has a different path.
        """
        return self._address is not None and scope.get("server") == self._address

    async def ask(self, request: Request, body: bytes) -> list[PeerResponse]:
        """Sends the same request to every other worker.

        Dead workers are skipped, since they have no state. Stalled workers get the request, since
        they may recover, but their responses are not awaited.
        """
        if self._folder is None or self.sent(request.scope):
            return []
        paths = sorted(path for path in self._folder.glob(SOCKET_PATTERN) if path.name != self._own)
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
                await asyncio.wait(waiting, timeout=STALL_CHECK_SECONDS)
        for one in asking.values():
            if not one.done():
                self._abandoned.add(one)
                one.add_done_callback(self._abandoned.discard)
        answers = [one.result() for one in asking.values() if one.done()]
        return [answer for answer in answers if answer is not None]


async def _ask(path: Path, method: str, target: str, body: bytes) -> PeerResponse | None:
    transport = httpx.AsyncHTTPTransport(uds=str(path), verify=False)
    async with httpx.AsyncClient(transport=transport, timeout=TIMEOUT_SECONDS) as client:
        try:
            answer = await client.request(method, f"http://peer{target}", content=body)
        except httpx.TimeoutException:  # it is alive, and may still complete the request
            return PeerResponse(504, f"no response within {TIMEOUT_SECONDS:g} s".encode())
        except httpx.TransportError:
            return None
    return PeerResponse(answer.status_code, answer.content)
