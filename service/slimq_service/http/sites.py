"""Hosts and origins as browsers send them, and which of them are loopback addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

LOCALHOST = "localhost"
PORTS = {"http": "80", "https": "443"}
"""Ports that an origin of a scheme leaves out (RFC 6454, 6.2)."""


def name_of(host: str) -> str:
    """The name or address in a Host header, lower case, without its port."""
    host = host.lower()
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


def is_same_host(origin: str, host: str) -> bool:
    """Whether an origin is of a Host header's host and port; proxies change the scheme."""
    scheme, _, authority = origin.lower().partition("://")
    default = f":{PORTS.get(scheme, '')}"
    return authority != "" and authority.removesuffix(default) == host.lower().removesuffix(default)


def is_address(name: str) -> bool:
    """Whether it is an IP address, with brackets around one of version 6."""
    return _address(name) is not None


def is_localhost(name: str) -> bool:
    """Whether browsers take a name for this machine without asking DNS (RFC 6761, 6.3)."""
    return name == LOCALHOST or name.endswith(f".{LOCALHOST}")


def is_loopback(name: str) -> bool:
    """Whether a name or address is this machine's own, which no other can reach."""
    address = _address(name)
    return is_localhost(name) if address is None else address.is_loopback


def is_among(name: str, allowed: Iterable[str]) -> bool:
    """Whether a name is one of these, or below one that begins with `*.`; `*` is any."""
    return any(
        one in ("*", name) or (one.startswith("*.") and name.endswith(one[1:])) for one in allowed
    )


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None
