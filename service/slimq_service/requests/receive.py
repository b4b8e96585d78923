"""Takes in a body with observations, in a thread where it would keep the event loop too long."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Receive, Scope

from slimq.core.errors import InvalidInputError
from slimq.core.manifest import PolicyManifest
from slimq.core.observation import Observations, ObservationSpec
from slimq_service.decoding.observations import JSON, MEDIA_TYPES, Envelope, parse
from slimq_service.http.bodies import media_type
from slimq_service.http.content_encoding import decompress, encoding_of
from slimq_service.requests.call import Call
from slimq_service.requests.pipeline import Hot
from slimq_service.settings import Settings

LARGE_JSON_BYTES = 256 * 1024
"""A longer JSON body is read in a thread: a megabyte takes several milliseconds."""


@dataclass(frozen=True)
class Received:
    """A body that was read as the policy's observations, and what is wrong with those, if anything.

    It is said only once it is known which variant is to answer: one that is not there comes first.
    """

    envelope: Envelope
    spec: ObservationSpec
    most: int
    observations: Observations | InvalidInputError

    def checked(self, spec: ObservationSpec) -> Observations:
        """The observations `(batch, *shape)`, by the layout of the variant that is to answer.

        Raises:
            ObservationError: they do not fit the spec.
            LimitError: there are too many.
        """
        if spec is not self.spec and spec != self.spec:  # a policy that is being published anew
            return self.envelope.observations(spec, self.most)
        if isinstance(self.observations, InvalidInputError):
            raise self.observations
        return self.observations


async def receive_observations(
    hot: Hot, scope: Scope, receive: Receive, call: Call, policy: PolicyManifest
) -> Received:
    """The body, in a thread where it is long or compressed.

    Raises:
        SlimqError: as `parse`, `Hot.body` and `decompress` do; the media type is none of
            `MEDIA_TYPES`, or the content encoding is not supported.
    """
    headers = scope["headers"]
    media, encoding = media_type(headers, MEDIA_TYPES), encoding_of(headers)
    body = await hot.body(receive, headers, call)
    arguments = media, body, encoding, policy.observation, hot.settings
    if encoding is not None or (media == JSON and len(body) > LARGE_JSON_BYTES):
        return await hot.read(call, receive, len(body), _read, *arguments)
    with call.reading():
        return _read(*arguments)


def _read(
    media: str, body: bytes, encoding: str | None, spec: ObservationSpec, limits: Settings
) -> Received:
    most = limits.max_batch
    if encoding is not None:
        body = decompress(body, encoding, limits.max_body_bytes)
    envelope = parse(media, body, spec, most)
    try:
        observations: Observations | InvalidInputError = envelope.observations(spec, most)
    except InvalidInputError as error:
        observations = error
    return Received(envelope, spec, most, observations)
