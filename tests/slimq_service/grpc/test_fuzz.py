"""Random bytes and random messages: every call is answered, and nothing is logged as a crash."""

from __future__ import annotations

import random
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from slimq_service.grpc import open_inference_pb2 as pb
from slimq_service.grpc.open_inference_pb2 import DESCRIPTOR

METHODS = DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
INFER = "ModelInfer"
CALLS = 4000
EXPECTED = {"INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
"""Codes that a client's mistake may have; above all, not INTERNAL and not UNKNOWN."""
WORDS = ("", "tiny", "tiny_frames", "fp32", "other", "observations", "q_values", "actions", "FP32")
ODD = ("\u0000", "../x", "a/b", "%2F", "\U0001f600" * 40, "x" * 3000)
NUMBERS = (0, 1, -1, 2, 4, 84, 255, 256, 2**31 - 1, 2**63 - 1, -(2**63))

pytestmark = pytest.mark.slow


class Maker:
    """Makes random messages, biased to what gets past the first checks."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)

    def fill(self, message: Message, depth: int = 0) -> None:
        for field in message.DESCRIPTOR.fields:
            if self.dice.random() < 0.4 or depth > 4:
                continue
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                name = self.dice.choice(("classification", "config", "variants", *ODD))
                self.fill(getattr(message, field.name)[name], depth + 1)
            elif field.is_repeated:
                for _ in range(self.dice.choice((1, 1, 1, 2, 4, 8))):
                    self.add(getattr(message, field.name), field, depth)
            elif field.message_type is not None:
                self.fill(getattr(message, field.name), depth + 1)
            else:
                self.set(message, field)

    def add(self, container: Any, field: FieldDescriptor, depth: int) -> None:
        if field.message_type is not None:
            self.fill(container.add(), depth + 1)
            return
        try:
            container.append(self.value(field))
        except ValueError:  # the number does not fit the type
            container.append(1)

    def set(self, message: Message, field: FieldDescriptor) -> None:
        try:
            setattr(message, field.name, self.value(field))
        except ValueError:
            setattr(message, field.name, 1)

    def value(self, field: FieldDescriptor) -> Any:
        kind = field.cpp_type
        if kind == FieldDescriptor.CPPTYPE_STRING and field.type == FieldDescriptor.TYPE_BYTES:
            return self.dice.randbytes(self.dice.choice((0, 1, 16, 32, 4 * 84 * 84)))
        if kind == FieldDescriptor.CPPTYPE_STRING:
            return self.dice.choice(WORDS if self.dice.random() < 0.8 else ODD)
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return self.dice.random() < 0.5
        if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
            return self.dice.choice((0.0, 1.5, float("nan"), float("inf"), 1e300))
        return self.dice.choice(NUMBERS)

    def damaged(self, message: bytes) -> bytes:
        """A message with bytes changed, cut or added, or random ones."""
        if not message or self.dice.random() < 0.2:
            return self.dice.randbytes(self.dice.choice((1, 2, 10, 100, 5000)))
        changed = bytearray(message)
        for _ in range(self.dice.choice((1, 1, 3))):
            changed[self.dice.randrange(len(changed))] = self.dice.randrange(256)
        end = self.dice.choice((len(changed), self.dice.randrange(len(changed) + 1)))
        return bytes(changed[:end]) + self.dice.randbytes(self.dice.choice((0, 0, 5)))


@pytest.mark.parametrize("seed", range(2))
def test_no_call_is_an_internal_error(
    launch_once: Any, call: Any, failed: Any, make_request: Any, observations: Any, seed: int
) -> None:
    process = launch_once(SLIMQ_GRPC_PORT="0")
    caller, maker, codes = call(process.grpc), Maker(seed), set[str]()
    valid = [
        make_request("tiny", observations, raw=raw, model_version="fp32") for raw in (True, False)
    ]
    for _ in range(CALLS):
        method = METHODS[maker.dice.choice((*METHODS, INFER, INFER, INFER))]
        message = getattr(pb, method.input_type.name)()
        if method.name == INFER and maker.dice.random() < 0.5:
            message.CopyFrom(maker.dice.choice(valid))
        else:
            maker.fill(message)
        body = message.SerializeToString()
        if maker.dice.random() < 0.5:
            body = maker.damaged(body)
        try:
            if method.server_streaming:
                list(caller.stream(iter([body]), timeout=60))
            else:
                caller.send(method.name, body)
        except failed as error:
            codes.add(error.code)
            if error.code not in EXPECTED:
                pytest.fail(f"{method.name}({body!r}): {error}")
    assert {"INVALID_ARGUMENT", "NOT_FOUND"} <= codes
    assert caller.infer(valid[0]).model_name == "tiny"
    log = process.log.read_text()
    assert "Traceback" not in log
    assert "failed" not in log
