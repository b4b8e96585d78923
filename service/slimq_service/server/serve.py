"""Runs the service until a signal, in this process or in several workers."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from typing import Protocol

import structlog

from slimq.core.errors import MissingExtraError, RepositoryError
from slimq.core.providers import check_available
from slimq_service.app import create_app
from slimq_service.middleware.auth import with_keys
from slimq_service.operations.games import Player
from slimq_service.server.run import exit_cleanly, run
from slimq_service.server.sockets import listen, numeric_address, reserve, url_of
from slimq_service.settings import PROVIDERS_SETTING, Settings
from slimq_service.settings_reading import unknown_variables

GRPC_MODULES = ("grpc", "grpc_health", "grpc_reflection")


class Announce(Protocol):
    """A callback that receives the URLs of the service."""

    def __call__(self, url: str, admin_url: str | None, grpc_address: str | None, /) -> None:
        """Called once connections are accepted, with what is only there if set as None."""


def serve(settings: Settings, announce: Announce, player: Player = ()) -> None:
    """Serves until SIGTERM or SIGINT; requests in progress are finished first.

    Args:
        settings: of the service.
        announce: called with the URLs.
        player: the command of the program that plays games for the page; empty for none.

    Raises:
        RepositoryError: the directory of policies does not exist.
        ConfigError: a key file cannot be read, or does not contain a key; or an execution provider
            is not available.
        MissingExtraError: a setting requires an extra that is not installed.
        InvalidInputError: an address cannot be used.
        SystemExit: 3 if the start fails; the log says why.
    """
    if not settings.policies.is_dir():
        path = str(settings.policies)
        raise RepositoryError(path, "no such folder; give one with --policies")
    for variable, near in unknown_variables(os.environ).items():
        log = structlog.get_logger(component="settings")
        log.warning("unknown variable", variable=variable, did_you_mean=near)
    settings = with_keys(settings)
    check_available(settings.providers, *PROVIDERS_SETTING)
    if settings.grpc_port is not None:
        check_grpc()
    with contextlib.ExitStack() as opened:
        sockets, settings = listen(settings, opened)
        settings = reserve(settings, opened)
        url, admin_url = url_of(sockets[0]), url_of(sockets[1]) if sockets[1:] else None
        announced = url, admin_url, grpc_address(settings)
        if settings.workers == 1:
            exit_cleanly()
            app = create_app(settings, player=player)
            announce(*announced)
            run(app, settings, sockets)
        else:
            from slimq_service.server.supervision.supervisor import (
                Supervisor,  # only where it is needed
            )

            announce(*announced)
            Supervisor(settings, sockets, player).run()


def check_grpc() -> None:
    """Checks that what gRPC needs is installed, without importing it.

    Raises:
        MissingExtraError: it is not.
    """
    for module in GRPC_MODULES:
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(module, "grpc")


def grpc_address(settings: Settings) -> str | None:
    """Host and port of gRPC, None if there is none."""
    if settings.grpc_port is None:
        return None
    host = numeric_address(settings.host)
    return f"[{host}]:{settings.grpc_port}" if ":" in host else f"{host}:{settings.grpc_port}"
