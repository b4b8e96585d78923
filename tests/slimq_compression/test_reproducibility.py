"""What a recipe makes is the same every time, whatever the order in which Python hashes names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from places import POLICIES, ROOT
from slimq.core.repository import Repository

SCRIPT = Path(__file__).parent / "scripts" / "shortened.py"
UNTRAINED = ("cartpole/int8", "cartpole/int8-dynamic", "cartpole/fp32")
SEVERAL = (
    *("cartpole/micro", "cartpole/sparse-obd"),
    *(
        "pong/int4-activations",
        "pong/int4-blocks",
        "pong/int8",
        "pong/mobilenet-undisturbed",
        "pong/tiny",
    ),
)
UNPUBLISHED = ("cartpole/pruned-td",)
"""Recipes whose variants do not ship. With `SEVERAL`, every pass, and every way to store."""


def make(hash_seed: int, *names: str) -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(POLICIES), str(ROOT / "recipes"), *names],
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        timeout=1_800,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    made: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return made


def nodes_of(name: str) -> list[str]:
    """Those of the model that is shipped."""
    _, content = Repository(POLICIES).read_model(*name.split("/"))
    nodes = onnx.load_model_from_string(content).graph.node
    return [node.SerializeToString(deterministic=True).hex() for node in nodes]


def test_recipes_without_training_make_the_same_bytes_twice() -> None:
    first, second = make(1, *UNTRAINED), make(2, *UNTRAINED)
    assert first.keys() == set(UNTRAINED)
    assert first == second
    for name in UNTRAINED:
        assert first[name]["nodes"] == nodes_of(name)


@pytest.mark.slow
def test_shipped_variants_have_the_nodes_that_their_recipes_make() -> None:
    """In the same order and under the same names: only weights depend on how long is trained."""
    first, second = make(1, *SEVERAL, *UNPUBLISHED), make(2, *SEVERAL, *UNPUBLISHED)
    assert first.keys() == {*SEVERAL, *UNPUBLISHED}
    assert [name for name in SEVERAL if first[name]["nodes"] != nodes_of(name)] == []
    assert first == second
