from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import serving_grpc
from slimq_service.grpc.open_inference_pb2 import ModelInferRequest


@pytest.mark.parametrize("contents", ["raw", "typed"])
def test_a_request_has_the_observation(contents: str) -> None:
    observation = np.float32([[1, 2, 3, 4]])
    request = ModelInferRequest.FromString(serving_grpc.encode("tiny", observation, contents))
    raw, typed = request.raw_input_contents, request.inputs[0].contents.fp32_contents
    found = np.frombuffer(raw[0], "<f4") if contents == "raw" else np.float32(typed)
    assert found.tolist() == [1, 2, 3, 4]
    assert bool(raw) != bool(typed)


@pytest.mark.slow
@pytest.mark.alone
def test_it_prints_a_ratio_for_every_case() -> None:
    command = [sys.executable, str(Path(serving_grpc.__file__)), "--rounds", "1", "--seconds", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    rows = [line.split() for line in ended.stdout.splitlines()[-3:]]
    assert [tuple(row[1:4:2]) for row in rows] == list(serving_grpc.CASES)
    assert all(float(row[9]) > 0.3 for row in rows)
