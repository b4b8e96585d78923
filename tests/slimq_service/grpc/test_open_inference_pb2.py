from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from places import ROOT

NAME = Path("slimq_service") / "grpc" / "open_inference.proto"


@pytest.mark.parametrize("suffix", ["_pb2.py", "_pb2.pyi"])
def test_what_is_generated_is_up_to_date(tmp_path: Path, suffix: str) -> None:
    copy = tmp_path / "service" / NAME
    copy.parent.mkdir(parents=True)
    shutil.copy(ROOT / "service" / NAME, copy)
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    # The target as it is, without what sets up the environment.
    command = ["make", "--silent", "--old-file=.venv/.stamp", "protocol"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    made = copy.with_name(f"open_inference{suffix}").read_text()
    assert (ROOT / "service" / NAME).with_name(f"open_inference{suffix}").read_text() == made
