"""Types of settings, with their parsing and validation.

Lists are comma-separated.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import NoDecode

from slimq.core.manifest import SLUG
from slimq.core.providers import parse_providers

KEY = r"[\x21-\x7e]{1,1024}"
KEY_RULE = "1 to 1024 visible ASCII characters"
ANY = "*"
"""Allows every host, origin or peer."""
UNIX = "unix"
"""Stands for all clients of a Unix socket."""
ROOT_PATH = r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~!$&+=:@-]+)+"
OWN_PATHS = ("v1", "v2", "docs", "openapi.json", "healthz", "readyz", "metrics")
"""First segments of the service's own paths."""
MAX_SOCKET_BYTES = 107 if sys.platform == "linux" else 103
"""Maximum length of a Unix socket's path: 108 bytes (104 on other systems) less a final NUL."""

_SLUG = SLUG.strip("^$")
_NAME = r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?"
_HOST = rf"\*|(\*\.)?{_NAME}|\[[0-9a-f:.]+\]"
_ORIGIN = rf"\*|[a-z][a-z0-9+.-]*://({_NAME}|\[[0-9a-f:.]+\])(:[0-9]{{1,5}})?"


def _check_key(value: SecretStr) -> SecretStr:
    if not re.fullmatch(KEY, value.get_secret_value()):
        raise ValueError(f"expected {KEY_RULE}, received something else")
    return value


def _split(value: Any) -> Any:
    return tuple(filter(None, re.split(r"[,\s]+", value))) if isinstance(value, str) else value


def _each(pattern: str, expected: str) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    def check(values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if not re.fullmatch(pattern, value):
                raise ValueError(f"expected {expected}, received {value!r}")
        return values

    return check


def _lower(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(value.lower().removesuffix("/") for value in values)


def _parse_providers(value: Any) -> Any:
    return parse_providers(value if isinstance(value, str) else ",".join(value))


def _check_root_path(value: str) -> str:
    path = value.rstrip("/")
    if path and not re.fullmatch(ROOT_PATH, path):
        raise ValueError(f"expected a path such as /slimq, received {value!r}")
    if path.split("/")[1:2] and path.split("/")[1] in OWN_PATHS:
        raise ValueError(f"expected a path other than the service's own, received {value!r}")
    return path


def _check_socket(value: Path) -> Path:
    path = value.absolute()  # as announced to clients, and as reported for the listening socket
    size = len(os.fsencode(path))
    if value == Path() or size > MAX_SOCKET_BYTES:
        expected = f"the path of a socket, at most {MAX_SOCKET_BYTES} bytes"
        raise ValueError(f"expected {expected}, received {size} bytes: {path}")
    return path


def _check_peers(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        try:
            known = value in (ANY, UNIX) or bool(ipaddress.ip_network(value))
        except ValueError:
            known = False
        if not known:
            raise ValueError(f"expected addresses, networks, {UNIX} or {ANY}, received {value!r}")
    return values


Key = Annotated[SecretStr, AfterValidator(_check_key)]
"""A key for requests."""
Providers = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parse_providers)]
"""Execution providers in order of preference."""
Pinned = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(_split),
    AfterValidator(_each(f"{_SLUG}/{_SLUG}", "policy/variant")),
]
"""Variants, as policy/variant."""
RootPath = Annotated[str, AfterValidator(_check_root_path)]
"""A path prefix: empty, or with a leading and no trailing slash."""
SocketPath = Annotated[Path, AfterValidator(_check_socket)]
"""The absolute path of a Unix socket, within the length limit."""
Peers = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check_peers)]
"""Addresses and networks of peers, `UNIX` or `ANY`."""
Hosts = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(_split),
    AfterValidator(_lower),
    AfterValidator(_each(_HOST, "names such as slimq.example or *.example, without a port")),
]
"""Host names, `*.name` for subdomains, or `ANY`."""
Origins = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(_split),
    AfterValidator(_lower),
    AfterValidator(_each(_ORIGIN, "origins such as https://slimq.example, or *")),
]
"""Origins of web pages (RFC 6454), or `ANY`."""
