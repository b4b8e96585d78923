"""The README's way with a policy of one's own: its commands, run as they stand there."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.sync.client import connect

from places import ROOT
from running import COMMAND, announced, serve
from slimq.core.repository import Repository

PROGRAMS = ROOT / ".venv-imports"
SETUP = ("python3", ".venv-sb3/bin/pip")
"""Programs of the lines that install Stable-Baselines3, which `make slow` has done."""
SECONDS = 900
ENV = "CartPole-v1"
SAVE = """
import sys
from safetensors.torch import load_file
from stable_baselines3 import DQN
model = DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [256, 256]})
names = {"features.0": "0", "features.2": "2", "head": "4"}
state = {}
for name, values in load_file(sys.argv[1]).items():
    layer, _, kind = name.rpartition(".")
    state[f"q_net.{names[layer]}.{kind}"] = values
for network in (model.q_net, model.q_net_target):
    network.load_state_dict(state)
model.save(sys.argv[2])
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PROGRAMS.exists() and "CI" not in os.environ, reason="`make slow` sets up the programs"
    ),
]


def lines_of_the_section() -> Iterator[list[str]]:
    """The words of each command in the section's bash blocks."""
    section = (ROOT / "README.md").read_text().split("## A policy of your own\n")[1]
    section = section.split("\n## ")[0]
    for block in section.split("```bash\n")[1:]:
        for line in block.split("```")[0].splitlines():
            yield shlex.split(line)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder like a clone's, with the programs under the README's name."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")  # where shrink saves its own
    (tmp_path / ".venv-sb3").symlink_to(PROGRAMS)
    return tmp_path


def run(words: list[str], place: Path, codes: tuple[int, ...] = (0,)) -> str:
    variables = dict(os.environ)
    if words[0] == "slimq":
        words = [*COMMAND, *words[1:]]
    else:
        variables.pop("PYTHONPATH", None)
    done = subprocess.run(
        words, cwd=place, capture_output=True, text=True, timeout=SECONDS, env=variables
    )
    assert done.returncode in codes, (words, done.stderr[-2000:])
    return done.stdout


def test_the_commands_of_the_section_work_in_their_order(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    lines = [words for words in lines_of_the_section() if words[0] not in SETUP]
    serving = next(index for index, words in enumerate(lines) if words[1] == "serve")
    for words in lines[:serving]:
        # How well a policy plays after a short training, and so the gate's verdict, depends on the
        # processor: the gate may refuse int8, or all that is small, with exit code 1.
        run(words, place, (0, 1) if words[1] in ("compress", "shrink") else (0,))
    repository = Repository(place / "my-policies")
    imported = repository.policy("mine")
    assert imported.imported is not None
    assert imported.imported.format == "stable-baselines3"
    assert imported.random_policy is not None
    report = repository.report("mine", "fp32")
    assert report is not None
    assert report.played is not None
    assert report.played.mean > imported.random_policy.mean
    served = [*COMMAND, *lines[serving][1:]]
    with announced(served, SECONDS) as (_, url):
        assert url == "http://127.0.0.1:8001"
        asked, played = lines[serving + 1 : serving + 3]
        answer = json.loads(run(asked, place))
        assert answer["variant"] == "fp32"
        assert answer["actions"][0] in (0, 1)
        assert "mean" in run(played, place)
    for words in lines[serving + 3 :]:
        run(words, place, (0, 1) if words[1] == "compress" else (0,))
    assert repository.report("corridor", "fp32") is not None


def test_an_imported_policy_is_compressed_evaluated_served_and_played(place: Path) -> None:
    """The weights of the shipped CartPole policy, in a file that Stable-Baselines3 saves."""
    policies = ["--policies", str(place / "policies")]
    weights = ROOT / "policies/cartpole" / checkpoint_of("cartpole")
    run([str(place / ".venv-sb3/bin/python"), "-c", SAVE, str(weights), "strong"], place)
    run(["slimq", "import", "strong.zip", "--policy", "mine", "--env", ENV, *policies], place)
    run(["slimq", "compress", "mine", "int8", *policies], place)
    run(["slimq", "evaluate", "mine", "--no-latency", *policies], place)
    repository = Repository(place / "policies")
    for name in ("fp32", "int8"):
        report = repository.report("mine", name)
        assert report is not None
        assert report.played is not None
        assert report.played.mean > 490
    with serve(place / "policies", SECONDS) as (_, url):
        state = {"observations": [[0.01, -0.02, 0.03, 0.04]]}
        answer = httpx.post(f"{url}/v1/policies/mine/variants/int8/act", json=state).json()
        assert answer["variant"] == "int8"
        assert_every_way_gives_the_same(url, answer)
        played = run(["slimq", "play", "mine", "--variant", "int8", "--url", url, "--json"], place)
        assert json.loads(played)["mean"] > 400


def checkpoint_of(policy: str) -> str:
    checkpoint = Repository(ROOT / "policies").policy(policy).checkpoint
    assert checkpoint is not None
    return checkpoint.path


def assert_every_way_gives_the_same(url: str, answer: dict[str, Any]) -> None:
    """The README's observation as raw bytes, npy, v2 and in a stream, to the same variant."""
    state = np.array([[0.01, -0.02, 0.03, 0.04]], dtype=np.float32)
    act = f"{url}/v1/policies/mine/variants/int8/act"
    stream = io.BytesIO()
    np.save(stream, state)
    for kind, content in (("octet-stream", state.tobytes()), ("x-npy", stream.getvalue())):
        headers = {"content-type": f"application/{kind}"}
        found = httpx.post(act, content=content, headers=headers).json()
        assert found["q_values"] == answer["q_values"]
        assert found["actions"] == answer["actions"]
    tensor = {"name": "observations", "shape": [1, 4], "datatype": "FP32"}
    inputs = {"inputs": [{**tensor, "data": state.ravel().tolist()}]}
    outputs = httpx.post(f"{url}/v2/models/mine/versions/int8/infer", json=inputs).json()["outputs"]
    q_values = next(output["data"] for output in outputs if output["name"] == "q_values")
    assert q_values == pytest.approx(answer["q_values"][0])
    address = url.replace("http", "ws") + "/v1/policies/mine/stream?variant=int8"
    with connect(address) as client:
        client.send(state.tobytes())
        assert json.loads(client.recv())["action"] == answer["actions"][0]
