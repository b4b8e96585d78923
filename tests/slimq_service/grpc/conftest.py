"""Calls without generated stubs, so that their bytes can be anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from slimq_service.grpc import open_inference_pb2 as pb

SERVICE = "/inference.GRPCInferenceService/"
DATATYPES = {"uint8": "UINT8", "float32": "FP32"}
CONTENTS = {"uint8": "uint_contents", "float32": "fp32_contents"}


class Failed(Exception):
    """A call that failed, with the name of its code and its message."""

    def __init__(self, error: Any) -> None:
        self.code, self.text = error.code().name, error.details()
        self.metadata = dict(error.trailing_metadata() or ())
        super().__init__(f"{self.code}: {self.text}")


class Caller:
    """Calls methods over a connection of its own."""

    def __init__(self, address: str) -> None:
        options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(address, options)

    def send(self, method: str, message: bytes, **options: Any) -> bytes:
        path = method if method.startswith("/") else SERVICE + method
        try:
            answer: bytes = self.channel.unary_unary(path)(message, **{"timeout": 60, **options})
        except grpc.RpcError as error:
            raise Failed(error) from None
        return answer

    def ask(self, method: str, **fields: Any) -> Any:
        options = {name: fields.pop(name) for name in ("metadata", "timeout") if name in fields}
        request = getattr(pb, f"{method}Request")(**fields)
        answer = self.send(method, request.SerializeToString(), **options)
        return getattr(pb, f"{method}Response").FromString(answer)

    def infer(self, request: pb.ModelInferRequest, **options: Any) -> pb.ModelInferResponse:
        return pb.ModelInferResponse.FromString(
            self.send("ModelInfer", request.SerializeToString(), **options)
        )

    def stream(self, messages: Any, **options: Any) -> Any:
        return self.channel.stream_stream(SERVICE + "ModelStreamInfer")(messages, **options)

    def close(self) -> None:
        self.channel.close()


@pytest.fixture
def call() -> Iterator[Any]:
    """Opens connections that end with the test."""
    opened: list[Caller] = []

    def begin(address: str) -> Caller:
        opened.append(Caller(address))
        return opened[-1]

    yield begin
    for one in opened:
        one.close()


@pytest.fixture
def make_request() -> Any:
    """`make_request(policy, array, raw=True, **fields)`."""

    def make(policy: str, array: Any, *, raw: bool = True, **fields: Any) -> pb.ModelInferRequest:
        dtype = str(array.dtype)
        tensor = pb.ModelInferRequest.InferInputTensor(
            name="observations", datatype=DATATYPES[dtype], shape=array.shape
        )
        request = pb.ModelInferRequest(model_name=policy, inputs=[tensor], **fields)
        if raw:
            request.raw_input_contents.append(array.tobytes())
        else:
            numbers = np.ravel(array).tolist()
            getattr(request.inputs[0].contents, CONTENTS[dtype]).extend(numbers)
        return request

    return make


@pytest.fixture
def failed() -> type[Failed]:
    return Failed
