"""Reads the settings, once, from `SLIMQ_*` variables and flags."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from slimq.core.errors import ConfigError, nearest
from slimq_service.settings import PREFIX, SECRETS, Settings

OTHER_VARIABLES = frozenset(("URL",))
"""Variables of other commands, without the prefix."""
TCP = frozenset(("host", "port"))
"""Settings that a Unix socket replaces."""


def read_settings(**flags: Any) -> Settings:
    """Reads the settings; a flag that is not None takes precedence over its variable.

    A flag for the address (host, port or uds) takes precedence over all variables for it.

    Raises:
        ConfigError: a value is invalid, or both a Unix socket and a host or port are given; names
            the variable.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    if "uds" not in given and TCP & given.keys():
        given["uds"] = None
    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        problem = first["msg"].removeprefix("Value error, ")
        if first["loc"] and name not in SECRETS and ", received " not in problem:
            problem += f", received {first.get('input')!r}"
        raise ConfigError("settings", PREFIX + name.upper(), problem) from error
    places = given if "uds" in given else settings.model_fields_set
    others = [PREFIX + name.upper() for name in sorted(TCP.intersection(places))]
    if settings.uds is not None and others:
        problem = f"expected either this or {' and '.join(others)}, received both"
        raise ConfigError("settings", f"{PREFIX}UDS", problem)
    return settings


def unknown_variables(names: Iterable[str]) -> dict[str, str | None]:
    """Unknown `SLIMQ_*` variables, each with the most similar known one, if any.

    They are not errors: Kubernetes, for one, sets variables named after services in all containers.
    """
    known = [name.upper() for name in Settings.model_fields]
    unknown: dict[str, str | None] = {}
    for name in sorted(names):
        ours, key = name.upper().startswith(PREFIX), name.upper().removeprefix(PREFIX)
        if ours and key not in known and key not in OTHER_VARIABLES:
            near = nearest(key, known)
            unknown[name] = None if near is None else PREFIX + near
    return unknown
