"""Asks a service with kserve's gRPC client, in an environment of its own: ADDRESS POLICY ARRAY."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub


def make_request(policy: str, array: Any, *, raw: bool) -> InferRequest:
    datatype = "UINT8" if array.dtype == np.uint8 else "FP32"
    tensor = InferInput("observations", list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=raw)
    return InferRequest(policy, [tensor], request_id="7")


def found(response: Any) -> dict[str, Any]:
    outputs = {output.name: output.as_numpy().tolist() for output in response.outputs}
    return {"id": response.id, "model_name": response.model_name, **outputs}


async def control(address: str, policy: str) -> list[Any]:
    """The methods of KServe's protocol that its client does not have."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        loaded = await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=policy))
        request = pb.RepositoryModelUnloadRequest(model_name=policy)
        unloaded = await stub.RepositoryModelUnload(request)
        return [loaded.model_name, loaded.isLoaded, unloaded.model_name, unloaded.isUnloaded]


async def ask(address: str, policy: str, array: Any) -> dict[str, Any]:
    async with InferenceGRPCClient(address) as client:
        answers = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model": await client.is_model_ready(policy),
            "unknown": await client.is_model_ready("none"),
            "loaded": await control(address, policy),
        }
        for form in ("typed", "raw"):
            request = make_request(policy, array, raw=form == "raw")
            answers[form] = found(await client.infer(request))
        try:
            await client.infer(InferRequest(policy, []))
        except grpc.aio.AioRpcError as error:
            answers["refused"] = [error.code().name, error.details()]
        return answers


if __name__ == "__main__":
    address, policy, path = sys.argv[1:]
    sys.stdout.write(json.dumps(asyncio.run(ask(address, policy, np.load(path)))))
