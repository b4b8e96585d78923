"""The published client of openpi, unchanged, against a real process.

It asks for an older NumPy than slimq uses, so it runs in `.venv-clients`, which `make slow` sets
up.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from places import ROOT

PYTHON = ROOT / ".venv-clients" / "bin" / "python"
SCRIPT = Path(__file__).parent / "clients" / "with_openpi.py"
RAW = {"content-type": "application/octet-stream"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON.exists() and "CI" not in os.environ, reason="`make slow` sets up the clients"
    ),
]


@pytest.fixture
def ask(tmp_path: Path) -> Any:
    def run(process: Any, path: str, observations: Any, *key: str) -> Any:
        np.save(tmp_path / "observations.npy", observations)
        url = process.url.replace("http://", "ws://") + path
        done = subprocess.run(
            [PYTHON, SCRIPT, url, tmp_path / "observations.npy", *key],
            capture_output=True,
            text=True,
            timeout=120,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in process.log.read_text()
        return json.loads(done.stdout)

    return run


def act(process: Any, policy: str, variant: str, observation: Any) -> Any:
    url = f"{process.url}/v1/policies/{policy}/variants/{variant}/act"
    return httpx.post(url, content=observation.tobytes(), headers=RAW).json()


def check(answer: Any, expected: Any) -> None:
    for name in ("policy", "variant", "sha256"):
        assert answer[name] == expected[name]
    actions, q_values = answer["actions"], answer["q_values"]
    assert (actions["dtype"], actions["values"]) == ("int64", expected["actions"])
    assert q_values["dtype"] == "float32"
    np.testing.assert_array_equal(np.float32(q_values["values"]), np.float32(expected["q_values"]))
    assert answer["server_timing"]["total_ms"] > answer["server_timing"]["infer_ms"] > 0


def test_the_published_client_gets_what_act_gives(
    launch: Any, tiny_repository: Path, tmp_path: Path, ask: Any, observations: Any
) -> None:
    process = launch(tiny_repository, tmp_path / "log")
    path = "/v1/policies/tiny/stream?format=msgpack"
    for variant, address in (("fp32", path), ("other", path + "&variant=other")):
        found = ask(process, address, observations)
        assert found["metadata"]["policy"] == "tiny"
        assert found["metadata"]["variant"] == variant
        expected = [act(process, "tiny", variant, one) for one in observations]
        for answer, one in zip(found["answers"], expected, strict=True):
            check(answer, one)
        check(found["after"], expected[0])
        assert found["refused"]["code"] == "invalid-observation"
        for answer in found["agent"]:
            assert answer["actions"]["values"] == expected[0]["actions"][0]
            assert answer["q_values"]["shape"] == [2]


def test_the_published_client_sends_frame_by_frame(
    launch: Any, tiny_repository: Path, tmp_path: Path, ask: Any, newest: Any, stack: Any
) -> None:
    process = launch(tiny_repository, tmp_path / "log")
    path = "/v1/policies/tiny_frames/stream?format=msgpack&keep=newest"
    found = ask(process, path, newest)
    assert found["metadata"]["frame"] == {"dtype": "uint8", "shape": [84, 84]}
    for n, answer in enumerate(found["answers"]):
        check(answer, act(process, "tiny_frames", "fp32", stack(newest[: n + 1])))
    check(found["after"], act(process, "tiny_frames", "fp32", stack(newest[:1])))


def test_the_published_client_raises_problems_if_asked_and_sends_its_key(
    launch: Any, tiny_repository: Path, tmp_path: Path, ask: Any, observations: Any
) -> None:
    process = launch(tiny_repository, tmp_path / "log", SLIMQ_API_KEY="secret-key")
    path = "/v1/policies/tiny/stream?format=msgpack&errors=text"
    found = ask(process, path, observations, "secret-key")
    assert found["refused"].startswith("Error in inference server:\n{")
    assert "observation.dtype: expected NumPy's name" in found["refused"]
    assert "actions" in found["after"]
