"""The temporary folder that workers share, for their metrics and sockets.

If it cannot be created or written, only these are affected: each worker exposes its own series
only, and a load or unload reaches only the worker that receives it. The workers' states are kept
elsewhere (`http/worker_table.py`).
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path

import structlog

from slimq.core.errors import InvalidInputError
from slimq_service.http.peers import socket_name
from slimq_service.server.sockets import bind_unix
from slimq_service.settings_types import MAX_SOCKET_BYTES

MAX_PATH_BYTES = MAX_SOCKET_BYTES - len("/" + socket_name(1023))
"""Maximum length of the folder's path."""


class WorkerFolder:
    """The folder, created and removed by the supervisor.

    Attributes:
        path: of the folder; None if it could not be created.
    """

    def __init__(self, path: Path | None) -> None:
        """Takes ownership of a folder.

        Args:
            path: of the folder, None if there is none.
        """
        self.path = path

    @classmethod
    def create(cls) -> WorkerFolder:
        """Creates the folder, or logs why it cannot be created.

        Raises:
            InvalidInputError: its path is too long for a socket.
        """
        try:
            path = Path(tempfile.mkdtemp(prefix="slimq-"))
        except OSError as error:
            structlog.get_logger(component="supervisor").error(
                "cannot create a temporary folder: workers do not share metrics, loads and unloads",
                problem=error.strerror or str(error),
            )
            return cls(None)
        excess = len(os.fsencode(path)) - MAX_PATH_BYTES
        if excess > 0:
            path.rmdir()
            expected = f"a path that is {excess} bytes shorter, for the workers' sockets"
            raise InvalidInputError("TMPDIR", expected, str(path.parent))
        return cls(path)

    def remove(self) -> None:
        """Removes the folder and its contents."""
        if self.path is not None:
            shutil.rmtree(self.path, ignore_errors=True)


def listen_to_peers(folder: Path | None, name: str) -> list[socket.socket]:
    """Listens on this worker's socket for requests of other workers; empty if that fails.

    Args:
        folder: of the sockets, None if there is none.
        name: of this worker's socket.
    """
    if folder is None:
        return []
    try:
        return [bind_unix(folder / name)]
    except OSError as error:
        structlog.get_logger(component="worker").error(
            "cannot receive loads and unloads from other workers",
            socket=str(folder / name),
            problem=error.strerror or str(error),
        )
        return []
