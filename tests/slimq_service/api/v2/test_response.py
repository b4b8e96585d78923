from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from slimq_service.api.v2.request import InferRequest, Output
from slimq_service.api.v2.response import render

Q_VALUES = np.array([[0.1, 0.2], [2.5, -1.0], [3.0, 3.0]], np.float32)


def written(*outputs: Output, identity: str | None = None, q_values: Any = Q_VALUES) -> Any:
    request = InferRequest(identity, np.zeros((3, 4), np.float32), outputs)
    return render("tiny", "fp32", request, q_values)


def test_json_reads_back_as_the_same_float32() -> None:
    answer = written(Output("q_values", binary=False), identity="7")
    document = json.loads(answer.body)
    (output,) = document["outputs"]
    np.testing.assert_array_equal(np.float32(output["data"]), Q_VALUES.ravel())
    assert (document["id"], output["shape"]) == ("7", [3, 2])
    assert answer.headers == ()


def test_of_equal_q_values_the_first_action_is_taken() -> None:
    (output,) = json.loads(written(Output("actions", binary=False)).body)["outputs"]
    assert output["data"] == [1, 0, 0]


@pytest.mark.parametrize("order", ["C", "F"])
def test_binary_tensors_are_little_endian_and_row_by_row(order: Any) -> None:
    q_values = np.asarray(Q_VALUES, order=order)
    outputs = (Output("actions", binary=True), Output("q_values", binary=True))
    answer = written(*outputs, q_values=q_values)
    ((_, length),) = answer.headers
    head, tensors = json.loads(answer.body[: int(length)]), answer.body[int(length) :]
    sizes = [output["parameters"]["binary_data_size"] for output in head["outputs"]]
    assert sizes == [24, 24]
    assert np.frombuffer(tensors[:24], "<i8").tolist() == [1, 0, 0]
    np.testing.assert_array_equal(np.frombuffer(tensors[24:], "<f4"), Q_VALUES.ravel())
