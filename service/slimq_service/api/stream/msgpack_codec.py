"""The stream's format for robots: MessagePack, with arrays as clients of openpi expect them.

Like openpi's own server, it greets with a description of the policy and takes a map per message:
https://github.com/Physical-Intelligence/openpi, `websocket_policy_server.py`. Arrays in answers
have a leading axis of 1, as a chunk of one action.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec.msgpack import Encoder

from slimq.core.errors import InvalidInputError, suggestion
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.qfunction import QValues
from slimq_service.api.stream.codec import FIELD, KEYS, MESSAGE, Content, StreamMessage
from slimq_service.api.stream.messages import render_problem
from slimq_service.api.stream.options import StreamOptions
from slimq_service.decoding.msgpack_arrays import (
    MAX_LIST_BYTES,
    read_flag,
    read_map,
    read_observation,
    read_text,
)
from slimq_service.decoding.observations import read_variant
from slimq_service.errors import LimitError, MalformedError
from slimq_service.http.problems import Problem
from slimq_service.requests.call import Call
from slimq_service.settings import Settings
from slimq_service.variants.loading import LoadedVariant

EXPECTED = f"a map with at least one of the keys {', '.join(KEYS[:-1])} and {KEYS[-1]}"
MAX_NUMBER_BYTES = 8
"""Bytes of a number in the widest dtype that is accepted."""

_ENCODER = Encoder()


class MsgpackCodec:
    """The `StreamCodec` of `format=msgpack`."""

    def __init__(self, options: StreamOptions, settings: Settings) -> None:
        """Keeps what the greeting tells about the stream."""
        self._options, self._settings = options, settings

    def greet(self, variant: LoadedVariant) -> Content:
        """Describes the policy: what to send, what the actions mean, and the limits."""
        policy, frame = variant.policy, variant.policy.observation.frame
        environment = policy.environment
        greeting = {
            **_names(variant),
            "environment": None if environment is None else environment.model_dump(mode="json"),
            "observation": policy.observation.model_dump(mode="json"),
            "frame": {"dtype": frame.dtype, "shape": frame.shape},
            "actions": policy.actions,
            "action_start": policy.action_start,
            "keep": self._options.keep,
            "limits": {
                "message_bytes": min(_max_bytes(frame), self._settings.stream_message_bytes),
                "idle_seconds": self._settings.stream_idle_seconds,
            },
        }
        return _ENCODER.encode(greeting)

    def read(self, message: Mapping[str, Any], spec: ObservationSpec) -> StreamMessage:
        """See `StreamCodec.read`.

        Raises:
            MalformedError: the message is text, or not MessagePack.
            LimitError: the message is longer than any observation could be.
            InvalidInputError: a key is unknown or of the wrong type, or there is none.
            ObservationError: the observation does not fit the spec.
        """
        content, expected = message.get("bytes"), "MessagePack in a binary message"
        if content is None:
            raise MalformedError(MESSAGE, expected, f"{len(message['text'])} characters of text")
        if not content:
            raise MalformedError(MESSAGE, expected, "an empty message")
        limit = _max_bytes(spec)
        if len(content) > limit:
            raise LimitError(MESSAGE, limit, f"{len(content)} bytes", "bytes")
        found = read_map(content, MESSAGE, EXPECTED)
        for key in found:
            if key not in KEYS:
                expected = f"only the keys {', '.join(KEYS[:-1])} and {KEYS[-1]}"
                raise InvalidInputError(MESSAGE, expected, repr(key[:64]), suggestion(key, KEYS))
        reset = read_flag(found["reset"], "reset") if "reset" in found else False
        variant: str | None = None
        if "variant" in found:
            text = read_text(found["variant"], "variant", "the name of a variant")
            variant = read_variant({"variant": text})
        frame: Observations | None = None
        if FIELD in found:
            frame = read_observation(found[FIELD], spec, FIELD)
        elif not reset and variant is None:
            raise InvalidInputError(MESSAGE, EXPECTED, "none of them")
        return StreamMessage(frame, reset, variant)

    def answer(
        self, variant: LoadedVariant, q_values: QValues | None, call: Call, *, superseded: bool
    ) -> Content:
        """See `StreamCodec.answer`; numbers are arrays, and times in milliseconds."""
        response: dict[str, Any] = _names(variant)
        if q_values is not None:
            numbers = variant.numbers_of([int(q_values[0].argmax())])
            response["actions"] = pack_array(np.array(numbers, np.int64))
            response["q_values"] = pack_array(q_values[:1])
        if superseded:
            response["superseded"] = True
        return _ENCODER.encode({**response, "server_timing": timing_of(call)})

    def refuse(self, problem: Problem, call: Call) -> Content:
        """Renders a problem document, as text if the stream's options say so."""
        if self._options.errors == "text":
            return render_problem(problem)
        return _ENCODER.encode({**problem, "server_timing": timing_of(call)})


def pack_array(array: npt.NDArray[Any]) -> dict[bytes, Any]:
    """Encodes an array as openpi's clients decode it."""
    return {
        b"__ndarray__": True,
        b"data": array.tobytes(),
        b"dtype": array.dtype.str,
        b"shape": array.shape,
    }


def timing_of(call: Call) -> dict[str, float]:
    """Milliseconds that a message's stages have taken so far, and those since it arrived."""
    stages = {
        "decode_ms": call.compute_input,
        "queue_ms": call.queue,
        "infer_ms": call.compute_infer,
        "total_ms": time.perf_counter_ns() - call.arrived,
    }
    return {name: nanoseconds / 1e6 for name, nanoseconds in stages.items()}


def _names(variant: LoadedVariant) -> dict[str, Any]:
    return {
        "policy": variant.policy.name,
        "variant": variant.manifest.name,
        "sha256": variant.sha256,
    }


def _max_bytes(spec: ObservationSpec) -> int:
    """The longest message: an array of the widest numbers, and as much else as lists may be."""
    return spec.size * MAX_NUMBER_BYTES + MAX_LIST_BYTES
