"""The interface between the pipeline and the wire formats of its endpoints."""

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
        content: observations `(batch, *shape)`, or the error in them, which is raised once the
            variant is known: a missing variant is reported first.
        variant: the variant that the body names.
        options: details of the request that `Codec.encode` needs.
    """

    content: Observations | SlimqError
    variant: str | None = None
    options: Any = None

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
        """Reads what `decode` needs from the headers, before the body is read.

        Raises:
            MediaTypeError: the body's type or encoding is not supported.
            MalformedError: a header that holds a length is not a number.
        """

    def is_slow(self, content: Any, size: int) -> bool:
        """Whether decoding a body of this size would block the event loop for long."""

    def decode(self, content: Any, body: bytes, spec: ObservationSpec) -> Decoded:
        """Decodes the observations of a body.

        Args:
            content: the result of `read_headers`.
            body: the complete body.
            spec: the layout of one observation.

        Raises:
            SlimqError: the body cannot be decoded far enough to know which variant it names.
        """

    def encode(
        self, variant: LoadedVariant, decoded: Decoded, q_values: QValues, actions: list[int]
    ) -> Response:
        """Encodes the response.

        Args:
            variant: the variant that served the request.
            decoded: the request.
            q_values: `(batch, actions)`, finite.
            actions: the greedy action of each row.
        """

    def error(self, problem: Problem) -> Response:
        """Encodes the response to a failed request."""
