"""Writes an inference's answer: all of it JSON, or JSON followed by binary tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from slimq.core.qfunction import QValues
from slimq_service.api.v2.framing import LENGTH_HEADER
from slimq_service.api.v2.request import InferRequest
from slimq_service.api.v2.tensors import ACTIONS, Q_VALUES, output_tensors
from slimq_service.http.responses import Answer


def render(model: str, version: str, request: InferRequest, q_values: QValues) -> Answer:
    """The answer with the outputs that were asked for, in that order.

    Args:
        model: the policy.
        version: its variant.
        request: says which outputs.
        q_values: `(batch, actions)`.
    """
    q_values = np.ascontiguousarray(q_values, dtype="<f4")
    values: dict[str, npt.NDArray[Any]] = {
        Q_VALUES: q_values,
        ACTIONS: q_values.argmax(axis=1).astype("<i8"),
    }
    datatypes = {tensor.name: tensor.datatype for tensor in output_tensors(q_values.shape[1])}
    outputs: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for output in request.outputs:
        array = values[output.name]
        entry: dict[str, Any] = {
            "name": output.name,
            "datatype": datatypes[output.name],
            "shape": array.shape,
        }
        if output.binary:
            binary.append(array.tobytes())
            entry["parameters"] = {"binary_data_size": array.nbytes}
        else:
            entry["data"] = array.ravel()
        outputs.append(entry)
    document: dict[str, Any] = {
        "model_name": model,
        "model_version": version,
        "outputs": outputs,
    }
    if request.id is not None:
        document["id"] = request.id
    head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not binary:
        return Answer(200, b"application/json", head)
    length = (LENGTH_HEADER, str(len(head)).encode())
    return Answer(200, b"application/octet-stream", b"".join([head, *binary]), (length,))
