"""Routing of requests that do not name a variant: to the default, or by the policy's weights.

Requests with the same `Routing-Key` go to the same variant: each variant draws an exponential
variable from a hash of key and name, divided by its weight, and the smallest wins (weighted
rendezvous hashing: Thaler & Ravishankar 1998; Schindelhauer & Schomaker 2005). When a weight is
raised, keys move to that variant only. Requests without a key are routed at random.

A variant that cannot serve gets no requests; the others keep their relative shares.
"""

from __future__ import annotations

import hashlib
import math
import random
import secrets
from collections.abc import Callable

from slimq.core.manifest import PolicyManifest
from slimq_service.errors import LimitError
from slimq_service.http.bodies import Headers, header

KEY_HEADER = "Routing-Key"
MAX_KEY_BYTES = 256
DIGEST_BYTES = 8

_KEY_HEADER = KEY_HEADER.lower().encode()


def default_variant(
    policy: PolicyManifest, headers: Headers, can_answer: Callable[[str, str], bool]
) -> str:
    """The variant for a request that does not name one.

    Args:
        policy: the policy's manifest, with its weights if any.
        headers: the request's headers, which may hold a routing key.
        can_answer: whether a variant, given by policy and name, can serve requests.

    Raises:
        LimitError: the key is longer than `MAX_KEY_BYTES`.
    """
    if policy.routing is None:
        return policy.default_variant
    key = header(headers, _KEY_HEADER)
    if key is not None and len(key) > MAX_KEY_BYTES:
        raise LimitError(KEY_HEADER, MAX_KEY_BYTES, f"{len(key)} bytes", "bytes")
    weights = {
        variant: weight
        for variant, weight in policy.routing.weights.items()
        if weight > 0 and can_answer(policy.name, variant)
    }
    if not weights:
        return policy.default_variant
    if key is None:
        return random.choices(list(weights), list(weights.values()))[0]
    return min(weights, key=lambda variant: _draw(policy.name, variant, key) / weights[variant])


def with_key(headers: Headers) -> Headers:
    """The headers with a routing key, a random one if they have none."""
    if header(headers, _KEY_HEADER) is not None:
        return headers
    return [*headers, (_KEY_HEADER, secrets.token_hex(DIGEST_BYTES).encode())]


def _draw(policy: str, variant: str, key: bytes) -> float:
    """A standard exponential variable, a function of the names and the key."""
    hashed = hashlib.blake2b(f"{policy}/{variant}/".encode() + key, digest_size=DIGEST_BYTES)
    uniform = (int.from_bytes(hashed.digest(), "big") + 0.5) / 2 ** (8 * DIGEST_BYTES)
    return -math.log(uniform)
