"""Requests of a load test: observations from real play, encoded and ready to send.

They come from the policy's calibration set, real play of the full policy on collection seeds: the
same bytes on every machine, identified by their hash, without an environment installed. Everything
is encoded before the first request, so that the generator only sends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

import httpx
import numpy as np

from slimq.core.errors import InvalidInputError, NotFoundError
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.repository import Repository

MAX_BODIES = 256
"""Maximum number of distinct requests; more would only fill memory."""
MAX_BYTES = 64 << 20
CONTENT_TYPE = "application/octet-stream"


@dataclass(frozen=True)
class Address:
    """Address of a service.

    Attributes:
        host: host name or IP address.
        port: TCP port.
        tls: whether to use TLS.
        prefix: the path before `/v1`, empty or `/…`.
    """

    host: str
    port: int
    tls: bool
    prefix: str

    @staticmethod
    def parse(url: str) -> Address:
        """Parses a URL that `SlimqClient` has accepted; host and path are ASCII-encoded."""
        parts = httpx.URL(url)
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        path = parts.raw_path.decode("ascii").partition("?")[0]
        return Address(parts.raw_host.decode("ascii"), port, tls, path.rstrip("/"))

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


@dataclass(frozen=True)
class Requests:
    """A variant's requests: one head, and bodies to send in turn."""

    head: bytes
    bodies: Sequence[bytes]


def make_head(address: Address, policy: str, variant: str, size: int, key: str | None) -> bytes:
    """Request line and headers for a body of `size` bytes."""
    path = f"{address.prefix}/v1/policies/{quote(policy, safe='')}"
    lines = [
        f"POST {path}/variants/{quote(variant, safe='')}/act HTTP/1.1",
        f"host: {address.authority}",
        f"content-type: {CONTENT_TYPE}",
        f"content-length: {size}",
    ]
    if key is not None:
        lines.append(f"authorization: Bearer {key}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def refuse_credentials(url: str, field: str) -> None:
    """Refuses an address with a user name or password, which would appear in reports.

    Args:
        url: address of a service or of metrics; an invalid URL passes.
        field: field to name in the error.

    Raises:
        InvalidInputError: the address has a user name or password.
    """
    with contextlib.suppress(httpx.InvalidURL, UnicodeError):
        if httpx.URL(url).userinfo:
            expected = "an address without a name or password (pass keys with --api-key)"
            raise InvalidInputError(field, expected, "one with credentials")


def same_host(url: str, other: str) -> bool:
    """Whether secrets for one address may be sent to another: same host, no weaker scheme."""
    try:
        first, second = httpx.URL(url), httpx.URL(other)
    except (httpx.InvalidURL, UnicodeError):
        return False
    return first.raw_host == second.raw_host and second.scheme in ("https", first.scheme)


def read_calibration(repository: Repository, policy: str, spec: ObservationSpec) -> Observations:
    """Reads observations `(states, *shape)` from a policy's calibration set.

    Raises:
        InvalidInputError: the repository, the policy or its calibration set does not exist.
        RepositoryError: the calibration set is invalid.
        ObservationError: the observations have a different layout.
    """
    expected = f"a repository with real observations of {policy}, or --input FILE"
    if not repository.root.is_dir():
        raise InvalidInputError("--policies", expected, f"{repository.root}, which is not a folder")
    try:
        manifest = repository.policy(policy)
    except NotFoundError as error:
        raise InvalidInputError("--policies", expected, f"{repository.root}: {error}") from error
    calibration = repository.calibration(manifest)
    if calibration is None:
        received = f"{repository.root}, where {policy} has no calibration set"
        raise InvalidInputError("--policies", expected, received)
    return spec.check(calibration.observations(manifest.observation), "calibration")


def make_bodies(observations: Observations, spec: ObservationSpec, batch: int) -> tuple[bytes, ...]:
    """Makes bodies of `batch` observations each, spread over all observations.

    Args:
        observations: `(states, *shape)`.
        spec: the policy's layout.
        batch: observations per body.

    Raises:
        ObservationError: the observations do not fit the policy.
    """
    checked = spec.check(observations).astype(spec.numpy_dtype, copy=False)
    affordable = max(1, MAX_BYTES // (batch * spec.item_bytes))
    count = min(MAX_BODIES, affordable, max(1, len(checked)))
    starts = np.arange(count) * len(checked) // count
    rows = (starts[:, None] + np.arange(batch)[None, :]) % len(checked)
    return tuple(checked[row].tobytes() for row in rows)
