"""Authentication by keys.

If an API key is set, every request must present it or the admin key, except health checks and the
page's static files, which ask for the key that the data requires. If an
admin key is set, loading and unloading require it; otherwise they require the API key. Requests
forwarded by another worker were authenticated there. `Guard` is only installed if a key is set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hmac import compare_digest
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from slimq.core.errors import ConfigError, SlimqError
from slimq_service.errors import ForbiddenError, UnauthorizedError
from slimq_service.http.accept import prefers_json
from slimq_service.http.bodies import header
from slimq_service.http.error_responses import refuse
from slimq_service.http.peers import Peers
from slimq_service.http.problems import problem_of
from slimq_service.settings import PREFIX, Settings
from slimq_service.settings_types import KEY, KEY_RULE

PUBLIC_PATHS = frozenset(("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"))
"""Paths that require no key, for probes."""
PAGE, PAGE_PREFIX = "/", "/page/"
"""Path of the page, whose JSON form requires the key, and prefix of its files."""
ADMIN_PREFIX = "/v2/repository/models/"
"""Prefix of the paths that load and unload."""
EXPECTED = "Bearer KEY, or X-API-Key: KEY"
SCHEMES = (b"bearer", b"api-key")
"""Schemes of the Authorization header; clients of openpi use the second one."""
MAX_KEY_FILE_BYTES = 4096
"""Bytes of a key file that are read."""


@dataclass(frozen=True)
class Keys:
    """The keys of a service; None if not set."""

    api: bytes | None = field(default=None, repr=False)
    admin: bytes | None = field(default=None, repr=False)

    def __bool__(self) -> bool:
        return self.api is not None or self.admin is not None


def read_keys(settings: Settings) -> Keys:
    """Reads the keys from the settings, or the files that these name.

    Raises:
        ConfigError: a file cannot be read, or holds no key.
    """
    return Keys(
        _read(settings.api_key, settings.api_key_file, "API_KEY_FILE"),
        _read(settings.admin_key, settings.admin_key_file, "ADMIN_KEY_FILE"),
    )


def with_keys(settings: Settings) -> Settings:
    """The settings with key files replaced by their keys, so that all workers have the same keys.

    Raises:
        ConfigError: a file cannot be read, or holds no key.
    """
    keys = read_keys(settings)
    found = {"api_key": keys.api, "admin_key": keys.admin}
    secrets = {name: key and SecretStr(key.decode()) for name, key in found.items()}
    return settings.model_copy(update={**secrets, "api_key_file": None, "admin_key_file": None})


class Guard:
    """ASGI middleware that requires a key."""

    def __init__(
        self, app: ASGIApp, keys: Keys, peers: Peers, count: Callable[[str], None]
    ) -> None:
        """Wraps `app`; `count` is called with the code of every rejection."""
        self._app, self._keys, self._peers, self._count = app, keys, peers, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Rejects requests without a sufficient key."""
        if scope["type"] != "lifespan" and not self._peers.sent(scope):
            error = self._check(scope["path"], scope["headers"])
            if error is not None:
                self._count(error.code)
                unknown = isinstance(error, UnauthorizedError)
                headers = ((b"www-authenticate", b"Bearer"),) if unknown else ()
                await refuse(scope, receive, send, problem_of(error), headers)
                return
        await self._app(scope, receive, send)

    def _check(self, path: str, headers: list[tuple[bytes, bytes]]) -> SlimqError | None:
        if is_public(path, headers):
            return None
        keys, administers = self._keys, path.startswith(ADMIN_PREFIX)
        if keys.api is None and not administers:
            return None
        presented = list(presented_keys(headers))
        if _is_among(keys.admin, presented):
            return None
        is_known = _is_among(keys.api, presented)
        if administers and keys.admin is not None:
            if is_known:
                return ForbiddenError("key", "the admin key", "the API key")
        elif is_known:
            return None
        received = "an unknown key" if presented else "no key"
        return UnauthorizedError("Authorization", EXPECTED, received)


def is_public(path: str, headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether a request requires no key: a health check, or a static file of the page."""
    if path == PAGE:
        return not prefers_json((header(headers, b"accept") or b"*/*").decode("latin-1"))
    return path in PUBLIC_PATHS or path.startswith(PAGE_PREFIX)


def presented_keys(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[bytes]:
    """The keys in a request's headers."""
    for name, value in headers:
        if name == b"x-api-key":
            yield value
        elif name == b"authorization":
            scheme, _, key = value.partition(b" ")
            if scheme.lower() in SCHEMES:
                yield key.strip()


def describe(document: dict[str, Any], keys: Keys) -> None:
    """Adds to the OpenAPI document which key each operation requires."""
    if not keys:
        return
    whose = "loading and unloading"
    if keys.api:
        whose = "every request except health checks and the page's files"
    described = f"required for {whose}"
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": described},
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": described},
    }
    for path, operations in document["paths"].items():
        administers = path.startswith(ADMIN_PREFIX)
        needed = path not in PUBLIC_PATHS and (keys.api is not None or administers)
        for operation in operations.values():
            operation["security"] = [{"bearer": []}, {"key": []}] if needed else []
            if administers and keys.admin is not None:
                operation["description"] = "Requires the admin key."


def _is_among(key: bytes | None, presented: list[bytes]) -> bool:
    return key is not None and any(compare_digest(key, one) for one in presented)


def _read(key: SecretStr | None, file: Path | None, name: str) -> bytes | None:
    if key is not None:
        return key.get_secret_value().encode()
    if file is None:
        return None
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_KEY_FILE_BYTES).strip()
    except OSError as error:
        problem = f"{file}: cannot be read: {error.strerror}"
        raise ConfigError("settings", PREFIX + name, problem) from error
    if not re.fullmatch(KEY.encode(), content):
        problem = f"{file}: expected {KEY_RULE}, received something else"
        raise ConfigError("settings", PREFIX + name, problem)
    return content
