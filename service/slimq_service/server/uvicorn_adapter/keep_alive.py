"""uvicorn's HTTP/1.1 connection with a single keep-alive timer."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class KeepAliveConnection(HttpToolsProtocol):
    """uvicorn's connection, whose timer checks on expiry whether it was idle for long enough.

    Starting and cancelling a timer per request, as uvicorn does, costs more.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._idle_since: float | None = None
        """When the last response was complete, by the loop's clock; None once data has followed."""

    def idle_too_long(self) -> None:
        """Called when the keep-alive timeout has passed; by default, does what uvicorn does."""
        super().timeout_keep_alive_handler()

    def timeout_keep_alive_handler(self) -> None:
        """Closes a connection that was idle for long enough."""
        self.timeout_keep_alive_task = None
        if self._idle_since is None:
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._watch_idleness(left)
        else:
            self.idle_too_long()

    def _become_idle(self) -> None:
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._watch_idleness(self.timeout_keep_alive)

    def _watch_idleness(self, seconds: float) -> None:
        then = self.timeout_keep_alive_handler
        self.timeout_keep_alive_task = self.loop.call_later(seconds, then)
