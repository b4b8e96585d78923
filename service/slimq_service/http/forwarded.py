"""Where clients find the service and who they are, as trusted proxies say it.

`X-Forwarded-Proto`, `-Host`, `-Prefix` and `-For`, or RFC 7239's `Forwarded` where there is none of
them. Of several values the last counts, which is the nearest proxy's: clients can send the others.
Nothing is read before somebody asks, so requests for actions pay nothing.
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

Said = dict[bytes, list[str]]
"""What proxies said, by `FOR`, `HOST`, `PROTO` and `PREFIX`, the nearest one's value last."""


@dataclass(frozen=True)
class PublicUrl:
    """The service's URL as clients have it; `prefix` is empty or begins with a slash."""

    scheme: str
    host: str
    prefix: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}{self.prefix}"


class Proxies:
    """Reads the headers of the proxies that are trusted."""

    def __init__(self, trusted: Sequence[str], root_path: str = "") -> None:
        """Trusts some peers.

        Args:
            trusted: addresses and networks; `unix` for whoever comes by a socket in the file
                system, `*` for all.
            root_path: the prefix where no proxy says one.
        """
        self._root_path = root_path
        self._trusts_all, self._trusts_unix = ANY in trusted, UNIX in trusted
        names = [name for name in trusted if name not in (ANY, UNIX)]
        self._networks = [ipaddress.ip_network(name) for name in names]

    def url(self, scope: Scope) -> PublicUrl:
        """The service's URL for the client of a request."""
        said = self._said(scope)
        scheme = _last(said, PROTO).lower()
        if scheme not in ("http", "https"):
            scheme = "https" if scope.get("scheme") in ("https", "wss") else "http"
        prefix = _last(said, PREFIX).rstrip("/")
        if not re.fullmatch(ROOT_PATH, prefix):
            prefix = self._root_path
        return PublicUrl(scheme, _host(said) or _own_host(scope), prefix)

    def forwarded_host(self, scope: Scope) -> str | None:
        """The host that the client asked the nearest proxy for, None where none is said."""
        return _host(self._said(scope))

    def client(self, scope: Scope) -> str:
        """The address of the client: the last that is no trusted proxy's, or else the first."""
        found = _peer(scope)
        for value in reversed(self._said(scope).get(FOR, [])):
            if not self._trusts(found):
                break
            found = _address_in(value)
        return found

    def _said(self, scope: Scope) -> Said:
        if not self._trusts(_peer(scope)):
            return {}
        headers = scope["headers"]
        said = {n: _values(headers, b"x-forwarded-" + n) for n in (FOR, HOST, PROTO, PREFIX)}
        return said if any(said.values()) else _read_forwarded(headers)

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
    """Whether a request came by a socket in the file system."""
    name, port = scope.get("server") or ("", None)
    return port is None and str(name).startswith("/")


def _peer(scope: Scope) -> str:
    """The address that a request came from; a TCP client that has left at once has none."""
    client = scope.get("client") or ("", 0)
    return UNIX if is_unix(scope) else str(client[0]) or UNKNOWN


def _own_host(scope: Scope) -> str:
    """The Host header, or the address that was asked where that is none."""
    found = (header(scope["headers"], b"host") or b"").decode("latin-1")
    if _HOST.fullmatch(found):
        return found
    if is_unix(scope):
        return LOCALHOST
    name, port = scope.get("server") or (LOCALHOST, None)
    name = f"[{name}]" if ":" in str(name) else name
    return str(name) if port is None else f"{name}:{port}"


def _host(said: Said) -> str | None:
    found = _last(said, HOST)
    return found if _HOST.fullmatch(found) else None


def _last(said: Said, name: bytes) -> str:
    values = said.get(name)
    return values[-1] if values else ""


def _values(headers: Headers, name: bytes) -> list[str]:
    text = ",".join(value.decode("latin-1") for key, value in headers if key == name)
    return [value.strip() for value in text.split(",") if value.strip()]


def _read_forwarded(headers: Headers) -> Said:
    text = ",".join(value.decode("latin-1") for key, value in headers if key == b"forwarded")
    said: Said = {}
    for element in _ELEMENT.findall(text):
        for name, quoted, token in _PAIR.findall(element):
            value = re.sub(r"\\(.)", r"\1", quoted) or token
            said.setdefault(name.lower().encode(), []).append(value)
    return said


def _address_in(value: str) -> str:
    """The address in a value of `for`, without a port; `unknown` where there is none."""
    text = value
    if value.startswith("["):
        text = value[1:].partition("]")[0]
    elif value.count(":") == 1:
        text = value.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return UNKNOWN
