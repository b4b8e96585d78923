"""The protocol's published clients against a real process.

They ask for older versions of packages that slimq uses, so they run in `.venv-clients`, which
`make slow` sets up.
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
SCRIPTS = Path(__file__).parent / "clients"
NAMES = ("tiny", "tiny_frames")
TRITON = ("with_tritonclient", "with_tritonclient_grpc")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON.exists() and "CI" not in os.environ, reason="`make slow` sets up the clients"
    ),
]


@pytest.fixture
def ask(launch: Any, tiny_repository: Path, tmp_path: Path) -> Any:
    """Runs a client's script against a fresh process; gives what it found, and the process."""

    def run(script: str, *arguments: str, policy: str, array: Any) -> Any:
        over_grpc = {"SLIMQ_GRPC_PORT": "0"} if script.endswith("_grpc") else {}
        process = launch(tiny_repository, tmp_path / "log", **over_grpc)
        np.save(tmp_path / "array.npy", array)
        url = process.url.removeprefix("http://") if script == "with_tritonclient" else process.url
        url = process.grpc or url
        done = subprocess.run(
            [PYTHON, SCRIPTS / f"{script}.py", *arguments, url, policy, tmp_path / "array.npy"],
            capture_output=True,
            text=True,
            timeout=120,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in process.log.read_text()
        return json.loads(done.stdout), process

    return run


@pytest.fixture
def arrays(observations: Any, frames: Any) -> Any:
    return {"tiny": observations, "tiny_frames": frames}


def act(process: Any, policy: str, array: Any, variant: str = "fp32") -> Any:
    url = f"{process.url}/v1/policies/{policy}/variants/{variant}/act"
    answer = httpx.post(url, json={"observations": array.tolist()})
    assert answer.status_code == 200
    return answer.json()


def check(found: Any, expected: Any) -> None:
    np.testing.assert_array_equal(np.float32(found["q_values"]), np.float32(expected["q_values"]))
    assert found["actions"] == expected["actions"]
    assert found["model_name"] == expected["policy"]


@pytest.mark.parametrize("policy", NAMES)
@pytest.mark.parametrize(
    "mode", ["json", "binary", "mixed", "gzip", "deflate", "version", "parallel", "aio"]
)
def test_tritonclient_gets_what_act_gives(ask: Any, arrays: Any, mode: str, policy: str) -> None:
    found, process = ask("with_tritonclient", mode, policy=policy, array=arrays[policy])
    variant = "other" if mode == "version" else "fp32"
    check(found, act(process, policy, arrays[policy], variant))
    assert (found["id"], found["model_version"]) == ("7", variant)
    assert found["types"] == ["float32", "int64"]


@pytest.mark.parametrize("client", TRITON)
def test_tritonclient_reads_metadata_readiness_and_statistics(
    ask: Any, arrays: Any, client: str
) -> None:
    found, _ = ask(client, "around", policy="tiny", array=arrays["tiny"])
    assert found == {
        "live": True,
        "ready": True,
        "model": True,
        "version": True,
        "unknown": False,
        "server": "slimq",
        "metadata": ["fp32", "other"],
        "config": 256,
        "all": 4,
        "inferences": 3,
        "success": 1,
    }


@pytest.mark.parametrize("client", TRITON)
def test_tritonclient_loads_and_unloads(ask: Any, arrays: Any, client: str) -> None:
    found, _ = ask(client, "lifecycle", policy="tiny", array=arrays["tiny"])
    assert found == {
        "states": [
            ["READY", "READY"],
            ["UNAVAILABLE", "UNAVAILABLE"],
            ["READY", "UNAVAILABLE"],
            ["READY", "READY"],
        ],
        "ready_after_unload": False,
    }


def test_tritonclient_raises_the_services_own_messages(ask: Any, arrays: Any) -> None:
    found, _ = ask("with_tritonclient", "refused", policy="tiny", array=arrays["tiny"])
    expected = [
        ("400", "inputs[0].shape"),
        ("400", "outputs[1].name"),
        ("404", "unknown policy 'none'"),
        ("404", "unknown policy 'none'"),
        ("400", "parameters.config"),
        ("404", "unknown variant 'none'"),
        ("404", "/v2/trace/setting"),
    ]
    assert len(found) == len(expected)
    for (status, message), (code, part) in zip(found, expected, strict=True):
        assert status == code
        assert part in message


@pytest.mark.parametrize("policy", NAMES)
def test_kserves_client_gets_what_act_gives(ask: Any, arrays: Any, policy: str) -> None:
    found, process = ask("with_kserve", policy=policy, array=arrays[policy])
    health = [found[name] for name in ("live", "ready", "model", "unknown")]
    assert health == [True, True, True, False]
    expected = act(process, policy, arrays[policy])
    for form in ("json", "binary", "dict"):
        check(found[form], expected)
    assert found["json"]["id"] == found["binary"]["id"] == "7"
    assert "inputs: expected one input, observations" in found["refused"]


@pytest.mark.parametrize("policy", NAMES)
@pytest.mark.parametrize(
    "mode", ["raw", "outputs", "gzip", "deflate", "version", "parallel", "aio"]
)
def test_tritonclient_over_grpc_gets_what_act_gives(
    ask: Any, arrays: Any, mode: str, policy: str
) -> None:
    found, process = ask("with_tritonclient_grpc", mode, policy=policy, array=arrays[policy])
    variant = "other" if mode == "version" else "fp32"
    check(found, act(process, policy, arrays[policy], variant))
    assert (found["id"], found["model_version"]) == ("7", variant)
    assert found["types"] == ["float32", "int64"]


def test_tritonclient_over_grpc_raises_the_services_own_messages(ask: Any, arrays: Any) -> None:
    found, _ = ask("with_tritonclient_grpc", "refused", policy="tiny", array=arrays["tiny"])
    expected = [
        ("INVALID_ARGUMENT", "inputs[0].shape"),
        ("INVALID_ARGUMENT", "outputs[1].name"),
        ("NOT_FOUND", "unknown policy 'none'"),
        ("NOT_FOUND", "unknown policy 'none'"),
        ("INVALID_ARGUMENT", "parameters.config"),
        ("NOT_FOUND", "unknown variant 'none'"),
        ("UNIMPLEMENTED", "Method not found"),
    ]
    assert len(found) == len(expected)
    for (status, message), (code, part) in zip(found, expected, strict=True):
        assert status == f"StatusCode.{code}"
        assert part in message


@pytest.mark.parametrize("policy", NAMES)
def test_a_stream_of_tritonclient_gets_what_act_gives(ask: Any, arrays: Any, policy: str) -> None:
    found, process = ask("with_tritonclient_grpc", "stream", policy=policy, array=arrays[policy])
    expected = act(process, policy, arrays[policy])
    assert [answer.get("id") for answer in found] == ["1", None, "3"]
    for answer in (found[0], found[2]):
        check(answer, expected)
        assert answer["final"] is True
    assert "unknown policy 'none'" in found[1]["error"]


@pytest.mark.parametrize("policy", NAMES)
def test_kserves_client_over_grpc_gets_what_act_gives(ask: Any, arrays: Any, policy: str) -> None:
    found, process = ask("with_kserve_grpc", policy=policy, array=arrays[policy])
    health = [found[name] for name in ("live", "ready", "model", "unknown")]
    assert health == [True, True, True, False]
    expected = act(process, policy, arrays[policy])
    for form in ("typed", "raw"):
        check(found[form], expected)
        assert found[form]["id"] == "7"
    assert found["refused"][0] == "INVALID_ARGUMENT"
    assert "inputs: expected one input, observations" in found["refused"][1]
    assert found["loaded"] == [policy, True, policy, True]
