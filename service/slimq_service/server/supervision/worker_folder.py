"""The temporary folder that workers share, for their series and for their own sockets.

A folder that cannot be created or written costs what it is for, and nothing else: each worker then
exposes its own series alone, and a load or unload reaches only the worker that is asked. The states
of the workers are kept elsewhere, see `http/worker_table.py`.
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
"""Length of the folder's path."""


class WorkerFolder:
    """The folder, as the supervisor has it.

    Attributes:
        path: None where no folder could be created.
    """

    def __init__(self, path: Path | None) -> None:
        """Takes over a folder.

        Args:
            path: of the folder.
        """
        self.path = path

    @classmethod
    def create(cls) -> WorkerFolder:
        """Creates the folder, or logs why it could not.

        Raises:
            InvalidInputError: its path is too long for that of a socket.
        """
        try:
            path = Path(tempfile.mkdtemp(prefix="slimq-"))
        except OSError as error:
            structlog.get_logger(component="supervisor").error(
                "workers share no metrics and no loads: no temporary folder can be created",
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
        """Removes the folder and all that is in it."""
        if self.path is not None:
            shutil.rmtree(self.path, ignore_errors=True)


def listen_to_peers(folder: Path | None, name: str) -> list[socket.socket]:
    """The socket on which other workers reach this one; none where it cannot be created.

    Args:
        folder: of the sockets, None where there is none.
        name: of this worker's socket.
    """
    if folder is None:
        return []
    try:
        return [bind_unix(folder / name)]
    except OSError as error:
        structlog.get_logger(component="worker").error(
            "other workers cannot pass on loads to this one",
            socket=str(folder / name),
            problem=error.strerror or str(error),
        )
        return []
