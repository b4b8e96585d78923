"""One stream from its acceptance to its end: messages in, responses out, in order.

A message that is answered with a problem document has no effect: it changes neither the frames nor
the variant. So it can be sent again, or replaced by another. A message whose frame is superseded by
a newer one takes effect, but its frame is not run.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass

import structlog
from starlette.types import Receive, Send

from slimq.core.observation import ObservationSpec
from slimq_service.api.stream.codec import Content, StreamCodec
from slimq_service.api.stream.ending import IDLE, INTERNAL, LAYOUT, LOST, RESTART, Ending, ending_of
from slimq_service.api.stream.inbox import Arrival, Inbox, NewestInbox
from slimq_service.api.stream.options import Keep
from slimq_service.errors import LayoutChangedError
from slimq_service.http.bodies import Headers
from slimq_service.http.problems import Problem
from slimq_service.requests.call import Call
from slimq_service.requests.pipeline import Pipeline

CLOSE_SECONDS = 1.0
"""Timeout of the close handshake for a client that does not read."""


@dataclass(frozen=True)
class Opening:
    """What a stream was opened with.

    Attributes:
        policy: the policy's name.
        variant: the variant to use; None for the policy's default, or one by its weights.
        spec: the policy's layout of observations, which must not change.
        headers: headers with the routing key that ties the stream to one variant.
        path: the path of the request, for the log.
        codec: the format of messages and answers.
        greeting: the message that is sent first, if any.
        keep: `newest` if an observation is not run when a newer one has arrived.
    """

    policy: str
    variant: str | None
    spec: ObservationSpec
    headers: Headers
    path: str
    codec: StreamCodec
    greeting: Content | None
    keep: Keep


class Session:
    """Serves one stream."""

    def __init__(self, pipeline: Pipeline, opening: Opening) -> None:
        """Starts with a new episode.

        Args:
            pipeline: handles the stream's calls.
            opening: what the stream was opened with.
        """
        self._pipeline, self._opening = pipeline, opening
        self._policy, self._variant = opening.policy, opening.variant
        self._codec, self._spec, self._frame = opening.codec, opening.spec, opening.spec.frame
        self._observation = opening.spec.padding()
        self._ending: Ending | None = None
        self._waiting: asyncio.Timeout | None = None
        self._log = structlog.get_logger(component="stream")

    def end(self) -> None:
        """Closes the stream for a shutdown, after the response in progress."""
        self._ending = RESTART
        if self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())

    async def run(self, receive: Receive, send: Send) -> Ending:
        """Accepts the stream, serves it until it ends, and closes it unless the client has.

        Args:
            receive: the ASGI receive channel, after `websocket.connect`.
            send: the ASGI send channel.
        """
        kind = NewestInbox if self._opening.keep == "newest" else Inbox
        inbox = kind(receive, lambda message: self._codec.read(message, self._frame))
        try:
            await send({"type": "websocket.accept"})
            ending = await self._serve(inbox, send)
        except OSError:  # raised by the server if the connection is gone
            return LOST
        except Exception:
            self._log.exception("stream failed", path=self._opening.path, policy=self._policy)
            ending = INTERNAL
        finally:
            inbox.close()
        if ending.code is not None:
            message = {"type": "websocket.close", "code": ending.code, "reason": ending.reason}
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await send(message)
        return ending

    async def _serve(self, inbox: Inbox | NewestInbox, send: Send) -> Ending:
        response = self._opening.greeting
        while True:
            arrival = await self._exchange(response, inbox, send)
            if arrival is None:
                return self._ending or IDLE
            if arrival.is_end:
                return ending_of(arrival.message)
            response = await self._handle(arrival, inbox)

    async def _exchange(
        self, response: Content | None, inbox: Inbox | NewestInbox, send: Send
    ) -> Arrival | None:
        """Sends a response and receives the next message, or returns None to end the stream.

        The idle timeout covers both: a client that sends but never reads is idle, too.
        """
        try:
            async with asyncio.timeout(
                self._pipeline.settings.stream_idle_seconds
            ) as self._waiting:
                if response is not None:
                    key = "text" if isinstance(response, str) else "bytes"
                    await send({"type": "websocket.send", key: response})
                if self._ending is not None:
                    return None
                # Gives others a turn, even if the next message is already here.
                await asyncio.sleep(0)
                return await inbox.next()
        except TimeoutError:
            return None
        finally:
            self._waiting = None

    async def _handle(self, arrival: Arrival, inbox: Inbox | NewestInbox) -> Content | None:
        """The response to a message, None if the client disconnected meanwhile."""
        call = Call(policy=self._policy, variant=self._variant, arrived=arrival.arrived)
        response: Content | None = None

        async def deliver(result: Content | Problem) -> None:
            nonlocal response
            if not isinstance(result, dict):
                response = result
                return
            if result["code"] == LayoutChangedError.code:
                self._ending = LAYOUT
            response = self._codec.refuse(result, call)

        answer = self._respond(call, arrival, inbox)
        await self._pipeline.recorder.settle(call, self._opening.path, answer, deliver)
        return response

    async def _respond(self, call: Call, arrival: Arrival, inbox: Inbox | NewestInbox) -> Content:
        pipeline, q_values, superseded = self._pipeline, None, False
        policy = pipeline.catalogue.policy(self._policy)
        call.variant = self._variant or pipeline.default_variant(policy, self._opening.headers)
        parsed = arrival.parse()
        call.compute_input += arrival.parsing
        variant = await pipeline.variant(call, self._policy, parsed.variant or call.variant)
        if variant.policy.observation != self._spec:
            problem = f"the observations of {self._policy!r} have changed; open a new stream"
            raise LayoutChangedError(problem)
        observation = self._spec.padding() if parsed.reset else self._observation
        if parsed.frame is not None:
            observation = self._spec.push(observation, parsed.frame)
            superseded = inbox.has_newer_frame
            if not superseded:
                q_values, _ = await pipeline.infer(call, inbox.watch, variant, observation)
        before = time.perf_counter_ns()
        response = self._codec.answer(variant, q_values, call, superseded=superseded)
        call.compute_output += time.perf_counter_ns() - before
        self._observation, self._variant = observation, parsed.variant or self._variant
        pipeline.metrics.streams_superseded.inc(superseded)
        return response
