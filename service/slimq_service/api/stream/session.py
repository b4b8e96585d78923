"""One stream from its acceptance to its end: messages in, responses out, in order.

A message that is answered with a problem document has no effect: it changes neither the frames nor
the variant. So it can be sent again, or replaced by another.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Any

import structlog
from starlette.types import Receive, Send

from slimq.core.observation import ObservationSpec
from slimq_service.api.stream.ending import IDLE, INTERNAL, LAYOUT, LOST, RESTART, Ending, ending_of
from slimq_service.api.stream.inbox import DISCONNECT, Inbox
from slimq_service.api.stream.messages import read_message, render_problem, render_response
from slimq_service.errors import LayoutChangedError
from slimq_service.http.bodies import Headers
from slimq_service.http.problems import Problem
from slimq_service.requests.call import Call
from slimq_service.requests.pipeline import Pipeline

CLOSE_SECONDS = 1.0
"""Timeout of the close handshake for a client that does not read."""


class Session:
    """Serves one stream."""

    def __init__(
        self,
        pipeline: Pipeline,
        policy: str,
        variant: str | None,
        spec: ObservationSpec,
        headers: Headers,
        path: str,
    ) -> None:
        """Starts with a new episode.

        Args:
            pipeline: handles the stream's calls.
            policy: the policy's name.
            variant: the variant to use; None for the policy's default, or one by its weights.
            spec: the policy's layout of observations, which must not change.
            headers: headers with the routing key that ties the stream to one variant.
            path: the path of the request, for the log.
        """
        self._pipeline, self._policy, self._variant = pipeline, policy, variant
        self._headers, self._path = headers, path
        self._spec, self._frame = spec, spec.frame
        self._observation = spec.padding()
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
        inbox = Inbox(receive)
        try:
            await send({"type": "websocket.accept"})
            ending = await self._serve(inbox, send)
        except OSError:  # raised by the server if the connection is gone
            return LOST
        except Exception:
            self._log.exception("stream failed", path=self._path, policy=self._policy)
            ending = INTERNAL
        finally:
            inbox.close()
        if ending.code is not None:
            message = {"type": "websocket.close", "code": ending.code, "reason": ending.reason}
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await send(message)
        return ending

    async def _serve(self, inbox: Inbox, send: Send) -> Ending:
        response: str | None = None
        while True:
            message = await self._exchange(response, inbox, send)
            if message is None:
                return self._ending or IDLE
            if message["type"] == DISCONNECT:
                return ending_of(message)
            response = await self._handle(message, inbox)

    async def _exchange(
        self, response: str | None, inbox: Inbox, send: Send
    ) -> Mapping[str, Any] | None:
        """Sends a response and receives the next message, or returns None to end the stream.

        The idle timeout covers both: a client that sends but never reads is idle, too.
        """
        try:
            async with asyncio.timeout(
                self._pipeline.settings.stream_idle_seconds
            ) as self._waiting:
                if response is not None:
                    await send({"type": "websocket.send", "text": response})
                if self._ending is not None:
                    return None
                # Gives others a turn, even if the next message is already here.
                await asyncio.sleep(0)
                return await inbox.next()
        except TimeoutError:
            return None
        finally:
            self._waiting = None

    async def _handle(self, message: Mapping[str, Any], inbox: Inbox) -> str | None:
        """The response to a message, None if the client disconnected meanwhile."""
        call = Call(policy=self._policy, variant=self._variant)
        response: str | None = None

        async def deliver(result: str | Problem) -> None:
            nonlocal response
            if isinstance(result, str):
                response = result
                return
            if result["code"] == LayoutChangedError.code:
                self._ending = LAYOUT
            response = render_problem(result)

        answer = self._respond(call, message, inbox)
        await self._pipeline.recorder.settle(call, self._path, answer, deliver)
        return response

    async def _respond(self, call: Call, message: Mapping[str, Any], inbox: Inbox) -> str:
        pipeline, q_values = self._pipeline, None
        policy = pipeline.catalogue.policy(self._policy)
        call.variant = self._variant or pipeline.default_variant(policy, self._headers)
        before = time.perf_counter_ns()
        parsed = read_message(message, self._frame)
        call.compute_input += time.perf_counter_ns() - before
        variant = await pipeline.variant(call, self._policy, parsed.variant or call.variant)
        if variant.policy.observation != self._spec:
            problem = f"the observations of {self._policy!r} have changed; open a new stream"
            raise LayoutChangedError(problem)
        observation = self._spec.padding() if parsed.reset else self._observation
        if parsed.frame is not None:
            observation = self._spec.push(observation, parsed.frame)
            q_values, _ = await pipeline.infer(call, inbox.watch, variant, observation)
        before = time.perf_counter_ns()
        response = render_response(variant, q_values)
        call.compute_output += time.perf_counter_ns() - before
        self._observation, self._variant = observation, parsed.variant or self._variant
        return response
