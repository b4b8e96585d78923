"""Hosts and origins as sent by browsers."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

LOCALHOST = "localhost"
PORTS = {"http": "80", "https": "443"}
"""Default ports, which origins omit (RFC 6454, 6.2)."""


def name_of(host: str) -> str:
    """The host name or address in a Host header, in lower case and without the port."""
    host = host.lower()
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


def is_same_host(origin: str, host: str) -> bool:
    """Whether an origin has the host and port of a Host header; proxies may change the scheme."""
    scheme, _, authority = origin.lower().partition("://")
    default = f":{PORTS.get(scheme, '')}"
    return authority != "" and authority.removesuffix(default) == host.lower().removesuffix(default)


def is_address(name: str) -> bool:
    """Whether it is an IP address (IPv6 in brackets)."""
    return _address(name) is not None


def is_localhost(name: str) -> bool:
    """Whether browsers resolve a name to this machine without DNS (RFC 6761, 6.3)."""
    return name == LOCALHOST or name.endswith(f".{LOCALHOST}")


def is_loopback(name: str) -> bool:
    """Whether a name or address is a loopback one, unreachable from other machines."""
    address = _address(name)
    return is_localhost(name) if address is None else address.is_loopback


def is_among(name: str, allowed: Iterable[str]) -> bool:
    """Whether a name is in a list of names, `*.name` for subdomains, and `*` for any."""
    return any(
        one in ("*", name) or (one.startswith("*.") and name.endswith(one[1:])) for one in allowed
    )


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None
