"""The requests of `serving.py`: paths, headers and bodies, and the Q-values in responses."""

from __future__ import annotations

import http.client
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from serving_cases import CEILING, ECHO, PLAIN, Request
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.repository import Repository

TOLERANCE = 1e-4
"""Tolerance of a server's Q-values, absolute and relative."""
LENGTH_HEADER = "Inference-Header-Content-Length"
WAIT_SECONDS = 60.0

Array = npt.NDArray[Any]


class AnswerError(Exception):
    """A server's response is wrong, so that measuring it would be meaningless."""


@dataclass(frozen=True)
class Prepared:
    """A request as sent, without the path.

    Attributes:
        headers: headers besides Host and Content-Length.
        body: the whole body.
        q_values: expected Q-values, `(1, actions)`.
    """

    headers: dict[str, str]
    body: bytes
    q_values: Array


def observe(repository: Repository, policy: str) -> tuple[Array, str]:
    """One observation `(1, *shape)`, and a description of its source.

    It is a state of real play, from the middle of the calibration set; random if there is none.
    """
    manifest = repository.policy(policy)
    spec = manifest.observation
    if (calibration := repository.calibration(manifest)) is not None:
        states = calibration.observations(spec)
        middle = len(states) // 2
        return states[middle : middle + 1], f"state {middle} of the calibration set"
    generator = np.random.default_rng(0)
    whole = spec.dtype == "uint8"
    values: Array = (
        generator.integers(0, 256, (1, *spec.shape))
        if whole
        else generator.normal(size=(1, *spec.shape))
    )
    return values.astype(spec.numpy_dtype), "random numbers of seed 0, there is no calibration set"


def prepare(repository: Repository, request: Request, observation: Array) -> Prepared:
    """Prepares a request for a variant of a repository, with the Q-values of its session."""
    policy = repository.policy(request.policy)
    model = repository.read_model(request.policy, request.variant)[1]
    q_values = OnnxPolicy(model, policy.observation, len(policy.actions))(observation)
    headers, body = encode(request.form, observation)
    return Prepared(headers, body, q_values)


def encode(form: str, observation: Array) -> tuple[dict[str, str], bytes]:
    """Encodes headers and body; JSON has a space after each comma, as from Python's clients."""
    if form == "json":
        body = json.dumps({"observations": observation.tolist()}).encode()
        return {"Content-Type": "application/json"}, body
    if form == "raw":
        return {"Content-Type": "application/octet-stream"}, observation.tobytes()
    datatype = "UINT8" if observation.dtype == np.uint8 else "FP32"
    if form == "v2json":
        flat = {"shape": list(observation.shape), "data": observation.ravel().tolist()}
        entry = {"name": "observations", "datatype": datatype, **flat}
        return {"Content-Type": "application/json"}, json.dumps({"inputs": [entry]}).encode()
    tensor = {
        "name": "observations",
        "shape": list(observation.shape),
        "datatype": datatype,
        "parameters": {"binary_data_size": observation.nbytes},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return {LENGTH_HEADER: str(len(head))}, head + observation.tobytes()


def path_of(server: str, request: Request) -> str:
    """The path for a request on a server."""
    if server in (CEILING, PLAIN, ECHO):
        return f"/{request.policy}/{request.form}"
    if request.form in ("v2", "v2json"):
        return f"/v2/models/{request.policy}/versions/{request.variant}/infer"
    return f"/v1/policies/{request.policy}/variants/{request.variant}/act"


def ask(
    method: str, url: str, headers: dict[str, str] | None = None, body: bytes | None = None
) -> tuple[http.client.HTTPMessage, bytes]:
    """Sends a request; returns headers and body of the response.

    Raises:
        AnswerError: the status is not 200.
        OSError: there is no response.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=WAIT_SECONDS)
    try:
        connection.request(method, parts.path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        said = content[:300].decode("utf-8", "replace")
        raise AnswerError(f"{method} {url} is answered with {answer.status}: {said}")
    return answer.headers, content


def check(url: str, prepared: Prepared, patience: float = 0.0) -> None:
    """Sends a request, which also loads the variant, and checks the Q-values.

    Args:
        url: the address.
        prepared: the request.
        patience: seconds within which the response must become right.

    Raises:
        AnswerError: the response is wrong, or an error.
    """
    expected, deadline = prepared.q_values, time.monotonic() + patience
    while True:
        headers, content = ask("POST", url, prepared.headers, prepared.body)
        found = decode(headers.get(LENGTH_HEADER), content)
        if found.shape == expected.shape and np.allclose(found, expected, TOLERANCE, TOLERANCE):
            return
        if time.monotonic() >= deadline:
            said = f"{found.tolist()}, expected {expected.tolist()}"
            raise AnswerError(f"{url} answers Q-values {said}")
        time.sleep(0.1)


def decode(length: str | None, content: bytes) -> Array:
    """The Q-values `(batch, actions)` of a response in JSON or with binary tensors."""
    if length is None:
        document = json.loads(content)
        if "q_values" in document:
            return np.array(document["q_values"], np.float32)
        found = {output["name"]: output for output in document["outputs"]}["q_values"]
        return np.array(found["data"], np.float32).reshape(found["shape"])
    head, offset = json.loads(content[: int(length)]), int(length)
    for output in head["outputs"]:
        if output["name"] == "q_values":
            count = math.prod(output["shape"])
            return np.frombuffer(content, "<f4", count, offset).reshape(output["shape"])
        offset += output["parameters"]["binary_data_size"]
    raise AnswerError(f"the answer has no q_values: {head}")


def write_body(folder: Path, request: Request, prepared: Prepared) -> Path:
    """Writes the body to a file, for wrk."""
    path = folder / f"{request.policy}-{request.variant}-{request.form}.body"
    path.write_bytes(prepared.body)
    return path
