"""Requests of the Open Inference Protocol as a client would make them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

LENGTH = "Inference-Header-Content-Length"
NUMPY = {"FP32": np.dtype("<f4"), "INT64": np.dtype("<i8")}


def document(array: Any, **changes: Any) -> dict[str, Any]:
    """A request's JSON with flattened data; `changes` are of its one input."""
    entry = {
        "name": "observations",
        "shape": list(array.shape),
        "datatype": "UINT8" if array.dtype == np.uint8 else "FP32",
        "data": array.ravel().tolist(),
        **changes,
    }
    return {"inputs": [{key: value for key, value in entry.items() if value is not None}]}


def frame(head: Any, *binary: bytes) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request whose JSON is followed by tensors."""
    content = json.dumps(head).encode()
    return content + b"".join(binary), {LENGTH: str(len(content))}


def tensors(answer: Any) -> dict[str, Any]:
    """The outputs of an answer as arrays, whether they came as JSON or as binary."""
    length = int(answer.headers.get(LENGTH, len(answer.content)))
    head, rest = json.loads(answer.content[:length]), answer.content[length:]
    found = {}
    for output in head["outputs"]:
        dtype = NUMPY[output["datatype"]]
        if "data" in output:
            values = np.array(output["data"], dtype)
        else:
            size = output["parameters"]["binary_data_size"]
            values, rest = np.frombuffer(rest[:size], dtype), rest[size:]
        found[output["name"]] = values.reshape(output["shape"])
    assert rest == b"", "nothing follows the tensors"
    return found


class Protocol:
    """The helpers above, for tests that cannot import this module."""

    LENGTH = LENGTH
    document = staticmethod(document)
    frame = staticmethod(frame)
    tensors = staticmethod(tensors)

    @staticmethod
    def binary(array: Any, **parameters: Any) -> tuple[bytes, dict[str, str]]:
        head = document(array, data=None, parameters={"binary_data_size": array.nbytes})
        return frame(
            {**head, "parameters": {"binary_data_output": True, **parameters}}, array.tobytes()
        )

    @staticmethod
    def infer(service: Any, model: str, body: Any, headers: Any = None) -> Any:
        """POSTs to a model, or `model/version`, without a Content-Type."""
        name, _, version = model.partition("/")
        path = f"/v2/models/{name}" + (f"/versions/{version}" if version else "") + "/infer"
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return service.request("POST", path, content=content, headers=headers or {})


@pytest.fixture(scope="session")
def protocol() -> type[Protocol]:
    return Protocol
