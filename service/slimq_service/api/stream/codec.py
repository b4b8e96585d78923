"""What the formats of a stream have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from slimq.core.observation import Observations, ObservationSpec
from slimq.core.qfunction import QValues
from slimq_service.http.problems import Problem
from slimq_service.requests.call import Call
from slimq_service.variants.loading import LoadedVariant

Content = str | bytes
"""The content of a text message, or of a binary one."""

FIELD = "observation"
KEYS = (FIELD, "reset", "variant")
"""Keys of a message that is a map; at least one is required."""
MESSAGE = "message"


@dataclass(frozen=True)
class StreamMessage:
    """A parsed message.

    Attributes:
        frame: the newest frame `(1, *frame)`, if any.
        reset: whether a new episode begins before the frame.
        variant: the variant to switch to, if any.
    """

    frame: Observations | None = None
    reset: bool = False
    variant: str | None = None


class StreamCodec(Protocol):
    """One format of messages and answers."""

    def greet(self, variant: LoadedVariant) -> Content | None:
        """The message that is sent first, if any, with the variant that answers at first."""

    def read(self, message: Mapping[str, Any], spec: ObservationSpec) -> StreamMessage:
        """Parses an ASGI message of type `websocket.receive`.

        Args:
            message: holds `bytes` or `text`.
            spec: the layout of one frame.

        Raises:
            SlimqError: the message is invalid.
        """

    def answer(
        self, variant: LoadedVariant, q_values: QValues | None, call: Call, *, superseded: bool
    ) -> Content:
        """Renders an answer.

        Args:
            variant: the variant that answers.
            q_values: `(1, actions)`; None if there was no frame, or it was not run.
            call: the message's call, for its times.
            superseded: whether the frame was not run, because a newer one had arrived.
        """

    def refuse(self, problem: Problem, call: Call) -> Content:
        """Renders a problem document."""
