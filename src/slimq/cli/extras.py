"""Checks that an optional dependency is there before a command starts its work."""

from __future__ import annotations

import importlib.util

from slimq.core.errors import MissingExtraError


def require(extra: str, *modules: str) -> None:
    """Checks that every module can be imported.

    Raises:
        MissingExtraError: one is missing; the message says which extra brings it.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(module, extra)
