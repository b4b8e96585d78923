"""The service's public URL and the client's address, as reported by trusted proxies.

Reads `X-Forwarded-Proto`, `-Host`, `-Prefix` and `-For`, or RFC 7239's `Forwarded` if none of them
is present. The last of several values counts: it is from the nearest proxy, whereas clients can
forge the others. Headers are parsed on demand, so requests for actions pay nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import Scope

from slimq_service.http.bodies import Headers, header
from slimq_service.http.sites import LOCALHOST
from slimq_service.settings_types import ANY, ROOT_PATH, UNIX

FOR, HOST, PROTO, PREFIX = b"for", b"host", b"proto", b"prefix"
UNKNOWN = "unknown"

_HOST = re.compile(r"([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_ELEMENT = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
_PAIR = re.compile(r'([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^;,\s"]*))')

Forwarded = dict[bytes, list[str]]
"""Forwarded values by `FOR`, `HOST`, `PROTO` and `PREFIX`, that of the nearest proxy last."""


@dataclass(frozen=True)
class PublicUrl:
    """The service's URL as seen by clients; `prefix` is empty or starts with a slash."""

    scheme: str
    host: str
    prefix: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}{self.prefix}"


class Proxies:
    """Reads the headers of trusted proxies."""

    def __init__(self, trusted: Sequence[str], root_path: str = "") -> None:
        """Stores the trusted peers.

        Args:
            trusted: addresses and networks; `unix` for all clients of a Unix socket, `*` for all.
            root_path: the prefix if no proxy sends one.
        """
        self._root_path = root_path
        self._trusts_all, self._trusts_unix = ANY in trusted, UNIX in trusted
        names = [name for name in trusted if name not in (ANY, UNIX)]
        self._networks = [ipaddress.ip_network(name) for name in names]

    def url(self, scope: Scope) -> PublicUrl:
        """The service's URL for the client of a request."""
        forwarded = self._forwarded(scope)
        scheme = _last(forwarded, PROTO).lower()
        if scheme not in ("http", "https"):
            scheme = "https" if scope.get("scheme") in ("https", "wss") else "http"
        prefix = _last(forwarded, PREFIX).rstrip("/")
        if not re.fullmatch(ROOT_PATH, prefix):
            prefix = self._root_path
        return PublicUrl(scheme, _host(forwarded) or _own_host(scope), prefix)

    def forwarded_host(self, scope: Scope) -> str | None:
        """The host requested from the nearest proxy, None if it was not forwarded."""
        return _host(self._forwarded(scope))

    def client(self, scope: Scope) -> str:
        """The client's address: the last one that is not a trusted proxy, otherwise the first."""
        found = _peer(scope)
        for value in reversed(self._forwarded(scope).get(FOR, [])):
            if not self._trusts(found):
                break
            found = _address_in(value)
        return found

    def _forwarded(self, scope: Scope) -> Forwarded:
        if not self._trusts(_peer(scope)):
            return {}
        headers = scope["headers"]
        forwarded = {n: _values(headers, b"x-forwarded-" + n) for n in (FOR, HOST, PROTO, PREFIX)}
        return forwarded if any(forwarded.values()) else _read_forwarded(headers)

    def _trusts(self, peer: str) -> bool:
        if self._trusts_all:
            return True
        if peer == UNIX:
            return self._trusts_unix
        try:
            address: Any = ipaddress.ip_address(peer)
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self._networks)


def is_unix(scope: Scope) -> bool:
    """Whether a request was received on a Unix socket."""
    name, port = scope.get("server") or ("", None)
    return port is None and str(name).startswith("/")


def _peer(scope: Scope) -> str:
    """The peer's address; unknown for a TCP client that disconnected at once."""
    client = scope.get("client") or ("", 0)
    return UNIX if is_unix(scope) else str(client[0]) or UNKNOWN


def _own_host(scope: Scope) -> str:
    """The Host header if it is valid, otherwise the server's address."""
    found = (header(scope["headers"], b"host") or b"").decode("latin-1")
    if _HOST.fullmatch(found):
        return found
    if is_unix(scope):
        return LOCALHOST
    name, port = scope.get("server") or (LOCALHOST, None)
    name = f"[{name}]" if ":" in str(name) else name
    return str(name) if port is None else f"{name}:{port}"


def _host(forwarded: Forwarded) -> str | None:
    found = _last(forwarded, HOST)
    return found if _HOST.fullmatch(found) else None


def _last(forwarded: Forwarded, name: bytes) -> str:
    values = forwarded.get(name)
    return values[-1] if values else ""


def _values(headers: Headers, name: bytes) -> list[str]:
    text = ",".join(value.decode("latin-1") for key, value in headers if key == name)
    return [value.strip() for value in text.split(",") if value.strip()]


def _read_forwarded(headers: Headers) -> Forwarded:
    text = ",".join(value.decode("latin-1") for key, value in headers if key == b"forwarded")
    forwarded: Forwarded = {}
    for element in _ELEMENT.findall(text):
        for name, quoted, token in _PAIR.findall(element):
            value = re.sub(r"\\(.)", r"\1", quoted) or token
            forwarded.setdefault(name.lower().encode(), []).append(value)
    return forwarded


def _address_in(value: str) -> str:
    """The address in a `for` value, without its port; `unknown` if there is none."""
    text = value
    if value.startswith("["):
        text = value[1:].partition("]")[0]
    elif value.count(":") == 1:
        text = value.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return UNKNOWN
