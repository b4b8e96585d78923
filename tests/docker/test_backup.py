"""The commands of docs/operations.md that back a repository up, as they are there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slimq.core.repository import Repository

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(
    shutil.which("rsync") is None and "CI" not in os.environ, reason="this machine lacks rsync"
)
def test_a_backup_is_whole_and_follows_what_was_removed(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (commands,) = re.findall(r"^```bash\n(rsync .*?)^```", page, re.MULTILINE | re.DOTALL)
    variants = tmp_path / "policies" / "cartpole" / "variants"
    shutil.copytree(ROOT / "policies" / "cartpole", variants.parent)
    (variants / "int8" / ".tmp-1").write_text("half a model")
    slimq = f'slimq() {{ "{sys.executable}" -c "from slimq.cli.main import main; main()" "$@"; }}'

    def back_up() -> str:
        done = subprocess.run(
            ["bash", "-euc", f"{slimq}\n{commands}"],
            cwd=tmp_path,
            env=os.environ,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    names = Repository(tmp_path / "policies").variants("cartpole")
    assert f"cartpole: ok, {len(names)} variants" in back_up()
    assert Repository(tmp_path / "backup").variants("cartpole") == names
    assert not list((tmp_path / "backup").rglob(".tmp-*"))
    shutil.rmtree(variants / "int8")
    assert f"cartpole: ok, {len(names) - 1} variants" in back_up()
    assert not (tmp_path / "backup" / "cartpole" / "variants" / "int8").exists()
