"""The service, with one variant slowed by a share of what each request takes.

    python slowed.py POLICIES VARIANT SHARE

It burns processor time before the answer goes out, as slower code would.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slimq_service.app import create_app
from slimq_service.server.logs import configure_logs
from slimq_service.server.run import exit_cleanly, run
from slimq_service.server.sockets import listen, url_of
from slimq_service.settings import Settings


class Slowed:
    """A layer around the front."""

    def __init__(self, app: ASGIApp, variant: str, share: float) -> None:
        self._app, self._path, self._share = app, f"/variants/{variant}/act", share

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope.get("path", "").endswith(self._path):
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()

        async def send_later(message: Message) -> None:
            if message["type"] == "http.response.start":
                now = time.perf_counter()
                end = now + self._share * (now - begin)
                while time.perf_counter() < end:
                    pass
            await send(message)

        await self._app(scope, receive, send_later)


def main(root: str, variant: str, share: str) -> None:
    configure_logs(logging.WARNING)
    with ExitStack() as opened:
        sockets, settings = listen(Settings(policies=Path(root), port=0), opened)
        exit_cleanly()
        app = create_app(settings)
        app = dataclasses.replace(app, asgi=Slowed(app.asgi, variant, float(share)))
        sys.stdout.write(f"slowed at {url_of(sockets[0])}\n")
        sys.stdout.flush()
        run(app, settings, sockets)


if __name__ == "__main__":
    main(*sys.argv[1:])
