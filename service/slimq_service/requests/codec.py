"""What differs between the endpoints that answer with actions: how bytes are read and written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from slimq.core.errors import SlimqError
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.qfunction import QValues
from slimq_service.http.bodies import Headers
from slimq_service.http.problems import Problem
from slimq_service.http.responses import Response
from slimq_service.variants.loading import LoadedVariant


@dataclass(slots=True)
class Decoded:
    """A decoded body.

    Attributes:
        content: observations `(batch, *shape)`, or what is wrong with them, which is raised once
            the variant is known: a missing variant is reported first.
        variant: the variant that the body names.
        reply: what `Codec.encode` needs to know of the request.
    """

    content: Observations | SlimqError
    variant: str | None = None
    reply: Any = None

    def observations(self) -> Observations:
        """The observations `(batch, *shape)`.

        Raises:
            SlimqError: they are invalid.
        """
        if isinstance(self.content, SlimqError):
            raise self.content
        return self.content


class Codec(Protocol):
    """Reads the requests of one endpoint and writes its responses.

    Attributes:
        policy_key: name of the path parameter that holds the policy.
        variant_key: name of the path parameter that may hold the variant.
        takes_query: whether the query string may name the variant, and nothing else.
    """

    policy_key: str
    variant_key: str
    takes_query: bool

    def read_headers(self, headers: Headers) -> Any:
        """What `decode` needs of the headers, read before the body is.

        Raises:
            MediaTypeError: the body's type or encoding is not supported.
            MalformedError: a header that holds a length is not a number.
        """

    def is_slow(self, content: Any, size: int) -> bool:
        """Whether decoding a body of this size would block the event loop for long."""

    def decode(self, content: Any, body: bytes, spec: ObservationSpec) -> Decoded:
        """A body's observations.

        Args:
            content: from `read_headers`.
            body: all of it.
            spec: the layout of one observation.

        Raises:
            SlimqError: it cannot be read far enough to know which variant is to answer.
        """

    def encode(
        self, variant: LoadedVariant, decoded: Decoded, q_values: QValues, actions: list[int]
    ) -> Response:
        """The response.

        Args:
            variant: which one answered.
            decoded: the request.
            q_values: `(batch, actions)`, finite.
            actions: the greedy action of each row.
        """

    def error(self, problem: Problem) -> Response:
        """The response to a request that failed."""
