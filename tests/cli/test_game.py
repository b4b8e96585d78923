from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from places import POLICIES
from slimq.cli.game import is_trusted
from slimq.core.manifest import PolicyManifest
from slimq.core.repository import Repository

COMMAND = [sys.executable, "-m", "slimq.cli.game"]


def play(root: Path, policy: str, *variants: str, episode: int = 0) -> list[dict[str, Any]]:
    """All lines of a game."""
    request = {"policies": str(root), "policy": policy, "variants": variants, "episode": episode}
    with subprocess.Popen(
        COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        lines = [json.loads(line) for line in process.stdout]
        assert process.wait(20) == 0
        return lines


def test_a_game_has_the_returns_of_the_reports() -> None:
    repository = Repository(POLICIES)
    variants = ("fp32", "fitted-16-8bit")
    lines = play(POLICIES, "acrobot", *variants, episode=2)
    ends = {line["side"]: line for line in lines if line["type"] == "end"}
    for side, variant in enumerate(variants):
        report = repository.report("acrobot", variant)
        assert report is not None
        assert report.returns is not None
        assert report.lengths is not None
        assert (ends[side]["return"], ends[side]["steps"]) == (report.returns[2], report.lengths[2])
        assert ends[side]["complete"]
    steps = [line["sides"] for line in lines if line["type"] == "step"]
    for side in (one for sides in steps for one in sides if one is not None):
        own, other = (int(np.argmax(side[name])) for name in ("q_values", "other_q_values"))
        assert side["disagrees"] == (own != other)
        assert len(base64.b64decode(side["frame"])) == 24
    first = [np.frombuffer(base64.b64decode(side["frame"]), "<f4") for side in steps[0]]
    assert np.array_equal(*first), "the same seed"


def test_the_end_of_the_input_ends_it() -> None:
    request = {"policies": str(POLICIES), "policy": "cartpole", "episode": 0}
    line = json.dumps({**request, "variants": ["fp32", "fp32"]}) + "\n"
    done = subprocess.run(COMMAND, input=line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert '"end"' not in done.stdout


@pytest.mark.parametrize(
    ("name", "trusted"),
    [
        ("minatar.gym:MinAtar/Breakout-v1", True),
        ("minigrid:MiniGrid-Empty-5x5-v0", True),
        ("minigrid.wrappers:ImgObsWrapper", True),
        ("minigrid.py:make", False),
        ("minigridded:make", False),
        ("gymnasium.wrappers:TimeLimit", True),
        ("gymnasium:CartPole-v1", True),
        ("gymnasium:os.system", False),
        ("gymnasium:make", False),
        ("gymnasium.wrappers.rendering:os.system", False),
        ("gymnasium:none", False),
        ("gymnasium.none:none", False),
        ("os:system", False),
        ("mine.py:make", False),
    ],
)
def test_only_known_packages_are_run(name: str, trusted: bool) -> None:
    assert is_trusted(name) is trusted


def test_code_that_a_policy_names_is_not_run(tmp_path: Path) -> None:
    source = POLICIES / "cartpole"
    manifest = PolicyManifest.model_validate_json((source / "policy.json").read_text())
    assert manifest.environment is not None
    ran = tmp_path / "ran"
    code = tmp_path / "own.py"
    code.write_text(f"open({str(ran)!r}, 'w').close()\n")
    spec = manifest.environment.model_copy(update={"id": f"{code}:make"})
    folder = tmp_path / "policies" / "cartpole"
    folder.mkdir(parents=True)
    shutil.copytree(source / "variants", folder / "variants")
    changed = manifest.model_copy(update={"environment": spec})
    (folder / "policy.json").write_text(changed.model_dump_json())
    (problem,) = play(tmp_path / "policies", "cartpole", "fp32", "fp32")
    assert problem["type"] == "problem"
    assert not ran.exists()
