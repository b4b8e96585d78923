"""The examples of docs/stream.md run, and what it lists is there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from websockets.sync.client import connect

from control_loop import read_arguments
from places import ROOT
from slimq_service.api.stream.codec import KEYS
from slimq_service.api.stream.ending import ENDINGS
from slimq_service.api.stream.endpoint import POLICY_PATH, VARIANT_PATH
from slimq_service.api.stream.inbox import MAX_WAITING
from slimq_service.api.stream.messages import MAX_TEXT_BYTES
from slimq_service.api.stream.msgpack_codec import timing_of
from slimq_service.api.stream.options import CHOICES
from slimq_service.decoding.msgpack_arrays import (
    ARRAY,
    ARRAY_KEYS,
    MAX_AXES,
    MAX_LIST_BYTES,
    SCALAR,
)
from slimq_service.metrics.codes import STREAM_ENDS
from slimq_service.requests.call import Call
from slimq_service.settings import Settings

CLIENT = "openpi_client"
CLIENTS = ROOT / ".venv-clients" / "bin" / "python"
PAGE = (ROOT / "docs" / "stream.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def run_block(python: str, block: str, address: str, **variables: str) -> list[str]:
    """The words that a block prints."""
    done = subprocess.run(
        [python, "-c", block.replace("127.0.0.1:8000", address)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_python_blocks_play(address: str) -> None:
    own = [block for block in blocks("python") if CLIENT not in block]
    (cartpole,), pong = (run_block(sys.executable, block, address) for block in own)
    assert float(cartpole) == 500
    assert pong[:2] == pong[3:5] == ["fastest", "int8"]
    assert len(pong) == 6


@pytest.mark.slow
@pytest.mark.skipif(
    not CLIENTS.exists() and "CI" not in os.environ, reason="`make slow` sets up the clients"
)
def test_the_block_for_robots_runs_with_the_published_client(address: str) -> None:
    (block,) = [block for block in blocks("python") if CLIENT in block]
    action, *shape, total_ms = run_block(str(CLIENTS), block, address, PYTHONPATH="")
    assert int(action) in (0, 1)
    assert shape == ["(1,", "2)"]
    assert float(total_ms) > 0


def test_the_command_of_the_loop_is_valid() -> None:
    (line,) = [line for b in blocks("bash") for line in b.splitlines() if "control_loop" in line]
    program, script, *words = line.split()
    assert (program, script) == ("python", "examples/control_loop.py")
    assert read_arguments(words).policy == "pong"


def test_the_page_has_every_parameter_key_and_time_of_robots() -> None:
    for name, values in CHOICES.items():
        assert f"| `{name}` | {', '.join(f'`{value}`' for value in values)} |" in PAGE
    for key in (ARRAY, SCALAR, *ARRAY_KEYS, *timing_of(Call())):
        assert f"`{key}`" in PAGE
    assert f"at most {MAX_LIST_BYTES // 1024} KiB, or a map" in PAGE
    assert f"a list of at most {MAX_AXES} lengths" in PAGE
    assert f"up to {MAX_WAITING}\nmessages ahead" in PAGE


def test_the_lines_that_are_typed_are_answered(address: str) -> None:
    (lines,) = [block.splitlines() for block in blocks("json")]
    url = blocks("bash")[1].split()[1].replace("127.0.0.1:8000", address)
    assert len(lines) == 2
    with connect(url) as stream:
        for line, expected in zip(lines, ("action", "variant"), strict=True):
            stream.send(line)
            answer = json.loads(stream.recv())
            assert expected in answer
            assert "code" not in answer


@pytest.mark.parametrize("name", [n for n in Settings.model_fields if n.startswith("stream")])
def test_the_page_names_the_settings(name: str) -> None:
    assert f"`SLIMQ_{name.upper()}`" in PAGE


def test_the_page_has_every_path_key_code_and_label() -> None:
    for path in (POLICY_PATH, VARIANT_PATH):
        assert f"`{path}`" in PAGE
    for key in KEYS:
        assert f"| `{key}` |" in PAGE
    assert f"at most {MAX_TEXT_BYTES // 1024} KiB" in PAGE
    for label in STREAM_ENDS:
        assert f"`{label}`" in PAGE
    for ending in ENDINGS:
        if ending.code is not None:
            assert f"| {ending.code} | `{ending.label}` |" in PAGE
