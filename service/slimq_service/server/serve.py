"""Serves until a signal ends the service: in this process, or in several workers."""

from __future__ import annotations

import contextlib
import os
from typing import Protocol

import structlog

from slimq.core.errors import RepositoryError
from slimq.core.providers import check_available
from slimq_service.app import create_app
from slimq_service.middleware.auth import with_keys
from slimq_service.server.run import end_cleanly, run
from slimq_service.server.sockets import listen, url_of
from slimq_service.settings import PROVIDERS_SETTING, Settings
from slimq_service.settings_reading import unknown_variables


class Announce(Protocol):
    """Whoever wants to know where the service is."""

    def __call__(self, url: str, admin_url: str | None = None, /) -> None:
        """Is told once connections are accepted; administration may have a URL of its own."""


def serve(settings: Settings, announce: Announce) -> None:
    """Serves until SIGTERM or SIGINT; requests under way are finished first.

    Args:
        settings: everything it can be told.
        announce: told where.

    Raises:
        RepositoryError: the directory of policies is not there.
        ConfigError: a file that a setting names cannot be read, or does not hold a key; or an
            execution provider is not there.
        MissingExtraError: a setting asks for what is not installed.
        InvalidInputError: an address cannot be used.
        SystemExit: 3 where the start fails; the log says why.
    """
    if not settings.policies.is_dir():
        path = str(settings.policies)
        raise RepositoryError(path, "no such directory; give one with --policies")
    for variable, near in unknown_variables(os.environ).items():
        log = structlog.get_logger(component="settings")
        log.warning("variable is not read", variable=variable, did_you_mean=near)
    settings = with_keys(settings)
    check_available(settings.providers, *PROVIDERS_SETTING)
    with contextlib.ExitStack() as opened:
        sockets, settings = listen(settings, opened)
        if settings.workers == 1:
            end_cleanly()
            app = create_app(settings)
            announce(*map(url_of, sockets))
            run(app, settings, sockets)
        else:
            from slimq_service.server.supervision.supervisor import (
                Supervisor,  # only where it is needed
            )

            announce(*map(url_of, sockets))
            Supervisor(settings, sockets).run()
