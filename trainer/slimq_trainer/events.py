"""Scalars for TensorBoard, written synchronously.

TensorBoard's own writer has a thread that notices a full disk long after the call, reports it with
a traceback, and leaves a partial record.
"""

from __future__ import annotations

import io
import os
import secrets
import socket
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from slimq.core.atomic import append_whole


class EventLog:
    """An event file, one per session of a run."""

    def __init__(self, folder: Path, step: int) -> None:
        """Creates the file.

        Args:
            folder: folder of the run's event files, created if missing.
            step: first agent step of the session; it voids earlier sessions' records from this step
                on.

        Raises:
            OSError: it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of their names, also those created in the same
        # second.
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        unique = f"{nanoseconds:09d}.{os.getpid()}.{secrets.token_hex(4)}"
        name = f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{unique}"
        self.path = folder / name
        begin = Event(wall_time=time.time(), step=step, file_version="brain.Event:2")
        purge = Event(
            wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START)
        )
        append_whole(self.path, _record(begin) + _record(purge))

    def add(self, values: dict[str, float], step: int) -> None:
        """Appends the values of an agent step, by name.

        Raises:
            OSError: they cannot be written; the file is left unchanged.
        """
        summary = Summary(
            value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        )
        event = Event(wall_time=time.time(), step=step, summary=summary)
        append_whole(self.path, _record(event))


def _record(event: Event) -> bytes:
    buffer = io.BytesIO()
    RecordWriter(buffer).write(event.SerializeToString())
    return buffer.getvalue()
