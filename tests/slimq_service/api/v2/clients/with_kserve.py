"""Asks a service with kserve's client, in an environment of its own: URL POLICY ARRAY."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


def make_request(policy: str, array: Any, *, binary: bool) -> InferRequest:
    datatype = "UINT8" if array.dtype == np.uint8 else "FP32"
    tensor = InferInput("observations", list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    outputs = [RequestedOutput(name, {"binary_data": binary}) for name in ("q_values", "actions")]
    return InferRequest(policy, [tensor], request_id="7", request_outputs=outputs)


def found(response: Any) -> dict[str, Any]:
    outputs = {output.name: output.as_numpy().tolist() for output in response.outputs}
    return {"id": response.id, "model_name": response.model_name, **outputs}


async def ask(url: str, policy: str, array: Any) -> dict[str, Any]:
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        answers = {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model": await client.is_model_ready(url, policy),
            "unknown": await client.is_model_ready(url, "none"),
        }
        for form in ("json", "binary"):
            request = make_request(policy, array, binary=form == "binary")
            answers[form] = found(await client.infer(url, request, model_name=policy))
        document = {
            "inputs": [
                {
                    "name": "observations",
                    "shape": list(array.shape),
                    "datatype": "UINT8" if array.dtype == np.uint8 else "FP32",
                    "data": array.tolist(),
                }
            ]
        }
        answers["dict"] = found(await client.infer(url, document, model_name=policy))
        try:
            await client.infer(url, {"inputs": []}, model_name=policy)
        except httpx.HTTPStatusError as error:
            answers["refused"] = str(error)
        return answers


if __name__ == "__main__":
    url, policy, path = sys.argv[1:]
    sys.stdout.write(json.dumps(asyncio.run(ask(url, policy, np.load(path)))))
