"""Asks a service with tritonclient, in an environment of its own: MODE ADDRESS POLICY ARRAY."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

Q_VALUES, ACTIONS = "q_values", "actions"


def make_input(client: Any, array: Any, *, binary: bool) -> Any:
    tensor = client.InferInput("observations", array.shape, np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def found(result: Any) -> dict[str, Any]:
    response = result.get_response()
    return {
        "id": response.get("id"),
        "model_name": response["model_name"],
        "model_version": response["model_version"],
        "types": [str(result.as_numpy(name).dtype) for name in (Q_VALUES, ACTIONS)],
        Q_VALUES: result.as_numpy(Q_VALUES).tolist(),
        ACTIONS: result.as_numpy(ACTIONS).tolist(),
    }


def infer(address: str, policy: str, array: Any, **options: Any) -> dict[str, Any]:
    binary = options.pop("binary", True)
    outputs = options.pop("outputs", None)
    with triton.InferenceServerClient(address) as client:
        inputs = [make_input(triton, array, binary=binary)]
        return found(client.infer(policy, inputs, outputs=outputs, request_id="7", **options))


def ask_json(address: str, policy: str, array: Any) -> Any:
    outputs = [triton.InferRequestedOutput(n, binary_data=False) for n in (Q_VALUES, ACTIONS)]
    return infer(address, policy, array, binary=False, outputs=outputs)


def ask_binary(address: str, policy: str, array: Any) -> Any:
    return infer(address, policy, array)


def ask_mixed(address: str, policy: str, array: Any) -> Any:
    outputs = [
        triton.InferRequestedOutput(ACTIONS, binary_data=False),
        triton.InferRequestedOutput(Q_VALUES, binary_data=True),
    ]
    options = {"priority": 1, "timeout": 10_000_000, "sequence_id": 5, "sequence_start": True}
    return infer(address, policy, array, outputs=outputs, **options)


def ask_gzip(address: str, policy: str, array: Any) -> Any:
    algorithms = {"request_compression_algorithm": "gzip", "response_compression_algorithm": "gzip"}
    return infer(address, policy, array, **algorithms)


def ask_deflate(address: str, policy: str, array: Any) -> Any:
    algorithms = {"request_compression_algorithm": "deflate"}
    return infer(address, policy, array, binary=False, **algorithms)


def ask_version(address: str, policy: str, array: Any) -> Any:
    return infer(address, policy, array, model_version="other")


def ask_in_parallel(address: str, policy: str, array: Any) -> Any:
    with triton.InferenceServerClient(address, concurrency=4) as client:
        inputs = [make_input(triton, array, binary=True)]
        waiting = [client.async_infer(policy, inputs, request_id="7") for _ in range(16)]
        answers = [found(one.get_result()) for one in waiting]
    if any(answer != answers[0] for answer in answers):
        raise SystemExit("the same request was answered differently")
    return answers[0]


def ask_aio(address: str, policy: str, array: Any) -> Any:
    async def ask() -> Any:
        async with triton_aio.InferenceServerClient(address) as client:
            if not await client.is_server_ready() or not await client.is_model_ready(policy):
                raise SystemExit("not ready")
            inputs = [make_input(triton_aio, array, binary=True)]
            plain = await client.infer(policy, inputs, request_id="7")
            packed = await client.infer(
                policy, inputs, request_id="7", request_compression_algorithm="gzip"
            )
            if found(plain) != found(packed):
                raise SystemExit("compression changed the answer")
            return found(plain)

    return asyncio.run(ask())


def look_around(address: str, policy: str, array: Any) -> Any:
    with triton.InferenceServerClient(address) as client:
        client.infer(policy, [make_input(triton, array, binary=True)])
        statistics = client.get_inference_statistics(policy, "fp32")["model_stats"][0]
        return {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model": client.is_model_ready(policy),
            "version": client.is_model_ready(policy, "other"),
            "unknown": client.is_model_ready("none"),
            "server": client.get_server_metadata()["name"],
            "metadata": client.get_model_metadata(policy)["versions"],
            "config": client.get_model_config(policy)["max_batch_size"],
            "all": len(client.get_inference_statistics()["model_stats"]),
            "inferences": statistics["inference_count"],
            "success": statistics["inference_stats"]["success"]["count"],
        }


def load_and_unload(address: str, policy: str, array: Any) -> Any:
    def state(client: Any) -> Any:
        index = client.get_model_repository_index()
        return [entry["state"] for entry in index if entry["name"] == policy]

    with triton.InferenceServerClient(address) as client:
        states = []
        client.load_model(policy)
        states.append(state(client))
        client.unload_model(policy)
        states.append(state(client))
        ready = client.is_model_ready(policy)
        client.infer(policy, [make_input(triton, array, binary=True)])
        states.append(state(client))
        client.load_model(policy)
        states.append(state(client))
        return {"states": states, "ready_after_unload": ready}


def be_refused(address: str, policy: str, array: Any) -> Any:
    wrong = triton.InferInput("observations", [1, 3], "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 3), np.float32))
    right = make_input(triton, array, binary=True)
    twice = [triton.InferRequestedOutput(ACTIONS)] * 2
    messages = []
    with triton.InferenceServerClient(address) as client:
        for attempt in (
            lambda: client.infer(policy, [wrong]),
            lambda: client.infer(policy, [right], outputs=twice),
            lambda: client.infer("none", [right]),
            lambda: client.load_model("none"),
            lambda: client.load_model(policy, config="{}"),
            lambda: client.get_model_metadata(policy, "none"),
            lambda: client.get_trace_settings(),
        ):
            try:
                attempt()
            except InferenceServerException as error:
                messages.append([error.status(), error.message()])
    return messages


MODES = {
    "json": ask_json,
    "binary": ask_binary,
    "mixed": ask_mixed,
    "gzip": ask_gzip,
    "deflate": ask_deflate,
    "version": ask_version,
    "parallel": ask_in_parallel,
    "aio": ask_aio,
    "around": look_around,
    "lifecycle": load_and_unload,
    "refused": be_refused,
}

if __name__ == "__main__":
    mode, address, policy, path = sys.argv[1:]
    sys.stdout.write(json.dumps(MODES[mode](address, policy, np.load(path))))
