"""Asks a service with tritonclient over gRPC, in an environment of its own.

MODE ADDRESS POLICY ARRAY
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

Q_VALUES, ACTIONS = "q_values", "actions"


def make_input(array: Any) -> Any:
    tensor = triton.InferInput("observations", array.shape, np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor


def found(result: Any) -> dict[str, Any]:
    response = result.get_response()
    return {
        "id": response.id,
        "model_name": response.model_name,
        "model_version": response.model_version,
        "types": [str(result.as_numpy(name).dtype) for name in (Q_VALUES, ACTIONS)],
        Q_VALUES: result.as_numpy(Q_VALUES).tolist(),
        ACTIONS: result.as_numpy(ACTIONS).tolist(),
    }


def infer(address: str, policy: str, array: Any, **options: Any) -> dict[str, Any]:
    with triton.InferenceServerClient(address) as client:
        return found(client.infer(policy, [make_input(array)], request_id="7", **options))


def ask_outputs(address: str, policy: str, array: Any) -> Any:
    outputs = [triton.InferRequestedOutput(name) for name in (ACTIONS, Q_VALUES)]
    options = {"priority": 1, "timeout": 10_000_000, "sequence_id": 5, "sequence_start": True}
    return infer(address, policy, array, outputs=outputs, **options)


def ask_in_parallel(address: str, policy: str, array: Any) -> Any:
    answers: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(address) as client:
        for _ in range(16):
            client.async_infer(
                policy,
                [make_input(array)],
                lambda result, error: answers.put((result, error)),
                request_id="7",
            )
        results = [answers.get(timeout=60) for _ in range(16)]
    errors = [error for _, error in results if error is not None]
    if errors:
        raise SystemExit(str(errors[0]))
    documents = [found(result) for result, _ in results]
    if any(document != documents[0] for document in documents):
        raise SystemExit("the same request was answered differently")
    return documents[0]


def ask_aio(address: str, policy: str, array: Any) -> Any:
    async def ask() -> Any:
        async with triton_aio.InferenceServerClient(address) as client:
            if not await client.is_server_ready() or not await client.is_model_ready(policy):
                raise SystemExit("not ready")
            return found(await client.infer(policy, [make_input(array)], request_id="7"))

    return asyncio.run(ask())


def stream(address: str, policy: str, array: Any) -> Any:
    answers: queue.Queue[Any] = queue.Queue()
    names = (policy, "none", policy)
    with triton.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for number, name in enumerate(names, 1):
            client.async_stream_infer(
                name,
                [make_input(array)],
                request_id=str(number),
                enable_empty_final_response=True,
            )
        results = [answers.get(timeout=60) for _ in names]
        client.stop_stream()
    documents: list[dict[str, Any]] = []
    for result, error in results:
        if error is not None:
            documents.append({"error": error.message()})
            continue
        parameters = result.get_response().parameters
        documents.append({**found(result), "final": parameters["triton_final_response"].bool_param})
    return documents


def look_around(address: str, policy: str, array: Any) -> Any:
    with triton.InferenceServerClient(address) as client:
        client.infer(policy, [make_input(array)])
        statistics = client.get_inference_statistics(policy, "fp32").model_stats[0]
        return {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model": client.is_model_ready(policy),
            "version": client.is_model_ready(policy, "other"),
            "unknown": client.is_model_ready("none"),
            "server": client.get_server_metadata().name,
            "metadata": list(client.get_model_metadata(policy).versions),
            "config": client.get_model_config(policy).config.max_batch_size,
            "all": len(client.get_inference_statistics().model_stats),
            "inferences": statistics.inference_count,
            "success": statistics.inference_stats.success.count,
        }


def load_and_unload(address: str, policy: str, array: Any) -> Any:
    def state(client: Any) -> Any:
        index = client.get_model_repository_index().models
        return [entry.state for entry in index if entry.name == policy]

    with triton.InferenceServerClient(address) as client:
        states = []
        client.load_model(policy)
        states.append(state(client))
        client.unload_model(policy)
        states.append(state(client))
        ready = client.is_model_ready(policy)
        client.infer(policy, [make_input(array)])
        states.append(state(client))
        client.load_model(policy)
        states.append(state(client))
        return {"states": states, "ready_after_unload": ready}


def be_refused(address: str, policy: str, array: Any) -> Any:
    wrong = triton.InferInput("observations", [1, 3], "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 3), np.float32))
    right = make_input(array)
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
    "raw": infer,
    "outputs": ask_outputs,
    "gzip": lambda *given: infer(*given, compression_algorithm="gzip"),
    "deflate": lambda *given: infer(*given, compression_algorithm="deflate"),
    "version": lambda *given: infer(*given, model_version="other"),
    "parallel": ask_in_parallel,
    "aio": ask_aio,
    "stream": stream,
    "around": look_around,
    "lifecycle": load_and_unload,
    "refused": be_refused,
}

if __name__ == "__main__":
    mode, address, policy, path = sys.argv[1:]
    sys.stdout.write(json.dumps(MODES[mode](address, policy, np.load(path))))
