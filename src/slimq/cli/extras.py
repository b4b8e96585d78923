"""Checks that optional dependencies are installed before a command starts its work."""

from __future__ import annotations

import importlib.util

from slimq.core.errors import MissingExtraError


def require(extra: str, *modules: str) -> None:
    """Checks that every module can be imported.

    Raises:
        MissingExtraError: one is missing; the message names the extra that installs it.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(module, extra)
