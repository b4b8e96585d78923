"""Rejects state-changing requests and WebSockets from pages of other sites.

Browsers let any page send a plain-text POST, or open a WebSocket, to every reachable address,
localhost included. They add `Origin` and `Sec-Fetch-Site`, which pages can neither omit nor change.
A request with neither header is not from a browser, and is let through.

After loading, a page can also point its own host name to the service's address (DNS rebinding),
which makes it same-origin. So a browser's `Host` must be a name of the service. IP addresses need
no such check: a page whose host is an address was loaded from that address.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from slimq_service.errors import CrossSiteError
from slimq_service.http.bodies import header
from slimq_service.http.error_responses import refuse
from slimq_service.http.forwarded import Proxies, is_unix
from slimq_service.http.peers import Peers
from slimq_service.http.problems import problem_of
from slimq_service.http.sites import (
    is_address,
    is_among,
    is_localhost,
    is_loopback,
    is_same_host,
    name_of,
)
from slimq_service.middleware.auth import ADMIN_PREFIX
from slimq_service.settings import Settings
from slimq_service.settings_types import ANY

EXPECTED_HOST = "localhost, an IP address or a name of SLIMQ_ALLOWED_HOSTS"


class CrossSite:
    """ASGI middleware that rejects cross-site loads, unloads, games and WebSockets."""

    def __init__(
        self, app: ASGIApp, settings: Settings, peers: Peers, count: Callable[[str], None]
    ) -> None:
        """Wraps `app`; `count` is called with the code of every rejection."""
        self._app, self._settings, self._peers, self._count = app, settings, peers, count
        self._proxies = Proxies(settings.forwarded_allow_ips)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Rejects cross-site requests."""
        kind = scope["type"]
        administers = kind == "http" and (
            scope["path"].startswith(ADMIN_PREFIX) or starts_game(scope)
        )
        if (kind == "websocket" or administers) and not self._peers.sent(scope):
            error = self._check(scope, administers=administers)
            if error is not None:
                self._count(error.code)
                await refuse(scope, receive, send, problem_of(error))
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope, *, administers: bool) -> CrossSiteError | None:
        origin, site, host = (
            None if value is None else value.decode("latin-1").strip()
            for value in (
                header(scope["headers"], name) for name in (b"origin", b"sec-fetch-site", b"host")
            )
        )
        if origin is None and site is None:
            return None
        if host is None:
            return CrossSiteError("Host", EXPECTED_HOST, "no Host")
        names = self._names(scope)
        hosts = {"Host": host, "X-Forwarded-Host": self._proxies.forwarded_host(scope) or host}
        for field, one in hosts.items():
            if not (resolves_without_dns(name_of(one)) or is_among(name_of(one), names)):
                return CrossSiteError(field, EXPECTED_HOST, repr(one))
        if origin is not None and self._is_allowed(origin.lower(), administers=administers):
            return None
        if site == "cross-site" or (origin is None and site not in ("same-origin", "none")):
            return CrossSiteError("Sec-Fetch-Site", "same-origin", repr(site))
        if origin is not None and not any(is_same_host(origin, one) for one in hosts.values()):
            expected = f"an origin of {host} or of SLIMQ_CORS_ORIGINS"
            return CrossSiteError("Origin", expected, repr(origin))
        return None

    def _is_allowed(self, origin: str, *, administers: bool) -> bool:
        """Whether the settings allow an origin; `*` does not apply to administration."""
        origins = self._settings.cors_origins
        return origin in origins or (ANY in origins and not administers)

    def _names(self, scope: Scope) -> tuple[str, ...]:
        """The service's host names besides IP addresses and localhost."""
        settings = self._settings
        if settings.allowed_hosts:
            return settings.allowed_hosts
        if is_unix(scope):
            return (ANY,)
        _, port = scope.get("server") or ("", None)
        at_admin_port = port is not None and port == settings.admin_port
        bound = settings.admin_host if at_admin_port else settings.host
        return () if is_loopback(bound) else (ANY,)


def starts_game(scope: Scope) -> bool:
    """Whether a request starts a process that plays a game."""
    return bool(scope["method"] == "POST" and scope["path"].endswith("/play"))


def resolves_without_dns(name: str) -> bool:
    """Whether browsers resolve a host without DNS, which rules out DNS rebinding."""
    return is_address(name) or is_localhost(name)
