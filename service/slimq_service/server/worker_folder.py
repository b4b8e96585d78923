"""The temporary folder that workers share, for their metrics and for their own sockets.

A folder that cannot be created or written costs what it is for, and nothing else: each worker then
exposes its own metrics alone, and a load or unload reaches only the worker that is asked.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path

import structlog

from slimq.core.errors import InvalidInputError
from slimq_service.http.peers import socket_name
from slimq_service.server.sockets import bind_unix

MAX_PATH_BYTES = 107 - len("/" + socket_name(1023))
"""Length of the folder's path: a socket's has at most 107 bytes, as the kernel keeps it."""


class WorkerFolder:
    """The folder, as the supervisor has it.

    Attributes:
        path: None where no folder could be created.
    """

    def __init__(self, path: Path | None) -> None:
        """Tells nothing yet.

        Args:
            path: of the folder.
        """
        self.path = path
        self._untold: dict[str, str] = {}
        self._problem = ""
        self._log = structlog.get_logger(component="supervisor")

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

    def tell(self, texts: Mapping[str, str]) -> None:
        """Writes files for the workers to read; those that cannot be written wait for `retry`.

        Args:
            texts: their ASCII content, by name.
        """
        self._untold.update(texts)
        self.retry()

    def retry(self) -> None:
        """Writes the files that could not be written before; each failure is logged once."""
        if self.path is None or not self._untold:
            return
        try:
            for name, text in list(self._untold.items()):
                temporary = self.path / f".{name}"
                temporary.write_text(text, encoding="ascii")
                temporary.replace(self.path / name)
                del self._untold[name]
        except OSError as error:  # no reason to end workers that answer
            problem = error.strerror or str(error)
            if problem != self._problem:
                self._log.error("workers are not told of each other", problem=problem)
            self._problem = problem
        else:
            self._problem = ""

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
