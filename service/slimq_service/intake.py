"""Takes in a body with observations, in a thread where it would keep the event loop too long."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Receive, Scope

from slimq.core.manifest import PolicyManifest
from slimq.core.observation import Observations, ObservationSpec
from slimq_service.bodies import media_type
from slimq_service.hot import Call, Hot
from slimq_service.parsing import JSON, MEDIA_TYPES, Envelope, parse

LARGE_JSON_BYTES = 64 * 1024
"""A longer JSON body is parsed in a thread: a megabyte takes tens of milliseconds."""


@dataclass(frozen=True)
class Received:
    """A body that was read; `size` is what it took."""

    envelope: Envelope
    size: int

    @property
    def large(self) -> bool:
        """Whether its numbers are checked in a thread."""
        return self.envelope.media_type == JSON and self.size > LARGE_JSON_BYTES


async def receive_envelope(
    hot: Hot, scope: Scope, receive: Receive, call: Call, policy: PolicyManifest
) -> Received:
    """The body, read but not yet checked against a policy.

    Raises:
        SlimqError: as `parse` and `Hot.body` do; the media type is none of `MEDIA_TYPES`.
    """
    headers = scope["headers"]
    media = media_type(headers, MEDIA_TYPES)
    body = await hot.body(receive, headers, call)
    arguments = media, body, policy.observation, hot.settings.max_batch
    if media == JSON and len(body) > LARGE_JSON_BYTES:
        return Received(await hot.read(call, receive, len(body), parse, *arguments), len(body))
    with call.reading():
        return Received(parse(*arguments), len(body))


async def check_observations(
    hot: Hot, receive: Receive, call: Call, received: Received, spec: ObservationSpec
) -> Observations:
    """The observations `(batch, *shape)`.

    Raises:
        ObservationError: they do not fit the spec.
        LimitError: there are too many.
    """
    arguments = spec, hot.settings.max_batch
    envelope = received.envelope
    if received.large:
        return await hot.read(call, receive, received.size, envelope.observations, *arguments)
    with call.reading():
        return envelope.observations(*arguments)
