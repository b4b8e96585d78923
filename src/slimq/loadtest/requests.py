"""The requests of a load test: observations of real play, as bytes that are ready to be sent.

They come from the policy's calibration set, which is real play of the full policy on collection
seeds: the same bytes on every machine, known by their hash, without an environment installed.
Everything is encoded before the first request, so that the generator only sends.
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
"""Different requests; more would only fill memory."""
MAX_BYTES = 64 << 20
CONTENT_TYPE = "application/octet-stream"


@dataclass(frozen=True)
class Address:
    """Where a service is.

    Attributes:
        host: name or number.
        port: of TCP.
        tls: whether the connection is encrypted.
        prefix: the path before `/v1`, empty or `/…`.
    """

    host: str
    port: int
    tls: bool
    prefix: str

    @staticmethod
    def parse(url: str) -> Address:
        """Reads a URL that `SlimqClient` has taken; host and path as they travel, in ASCII."""
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
    """A variant's requests: the same head, and the bodies in turn."""

    head: bytes
    bodies: Sequence[bytes]


def make_head(address: Address, policy: str, variant: str, size: int, key: str | None) -> bytes:
    """Request line and headers of a body of `size` bytes."""
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
    """Holds an address to having no name or password, which reports would spread.

    Args:
        url: of a service or of metrics; what is no URL passes.
        field: what the error names.

    Raises:
        InvalidInputError: it has one.
    """
    with contextlib.suppress(httpx.InvalidURL, UnicodeError):
        if httpx.URL(url).userinfo:
            expected = "an address without a name or password (a key goes into --api-key)"
            raise InvalidInputError(field, expected, "one with them")


def same_host(url: str, other: str) -> bool:
    """Whether what one address may be told may be told to another: same host, no less guarded."""
    try:
        first, second = httpx.URL(url), httpx.URL(other)
    except (httpx.InvalidURL, UnicodeError):
        return False
    return first.raw_host == second.raw_host and second.scheme in ("https", first.scheme)


def read_calibration(repository: Repository, policy: str, spec: ObservationSpec) -> Observations:
    """Observations `(states, *shape)` from the calibration set of a policy.

    Raises:
        InvalidInputError: the repository is not there, or has no such policy, or no calibration
            set for it.
        RepositoryError: the calibration set is damaged.
        ObservationError: they are none of this layout.
    """
    expected = f"a repository with real observations of {policy}, or --input FILE"
    if not repository.root.is_dir():
        raise InvalidInputError("--policies", expected, f"{repository.root}, which is no folder")
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
    """Bodies of `batch` observations each, spread over all that there are.

    Args:
        observations: `(states, *shape)`.
        spec: the policy's layout.
        batch: observations in a body.

    Raises:
        ObservationError: they do not fit the policy.
    """
    checked = spec.check(observations).astype(spec.numpy_dtype, copy=False)
    most = max(1, MAX_BYTES // (batch * spec.item_bytes))
    count = min(MAX_BODIES, most, max(1, len(checked)))
    starts = np.arange(count) * len(checked) // count
    rows = (starts[:, None] + np.arange(batch)[None, :]) % len(checked)
    return tuple(checked[row].tobytes() for row in rows)
