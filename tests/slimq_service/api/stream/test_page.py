"""The examples of docs/stream.md run, and what it lists is there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from websockets.sync.client import connect

from places import ROOT
from slimq_service.api.stream.codec import KEYS
from slimq_service.api.stream.ending import ENDINGS
from slimq_service.api.stream.endpoint import POLICY_PATH, VARIANT_PATH
from slimq_service.api.stream.messages import MAX_TEXT_BYTES
from slimq_service.metrics.codes import STREAM_ENDS
from slimq_service.settings import Settings

PAGE = (ROOT / "docs" / "stream.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_the_python_blocks_play(address: str) -> None:
    printed = []
    for block in blocks("python"):
        done = subprocess.run(
            [sys.executable, "-c", block.replace("127.0.0.1:8000", address)],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=ROOT,
            env=os.environ,
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout.split())
    (cartpole,), pong = printed
    assert float(cartpole) == 500
    assert pong[:2] == pong[3:5] == ["fastest", "int8"]
    assert len(pong) == 6


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
