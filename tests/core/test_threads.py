from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from slimq.core.threads import (
    VARIABLE,
    WAIT_POLICY,
    available_cores,
    limit_threads,
    thread_limit,
)


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.setenv(VARIABLE, str(before))
    yield
    torch.set_num_threads(before)


def test_a_limit_holds_for_torch_and_for_processes_started_later() -> None:
    limit_threads(1)
    assert torch.get_num_threads() == 1
    script = "import torch; print(torch.get_num_threads())"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"


def test_none_leaves_everything_and_0_takes_every_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "3")
    limit_threads(None)
    assert os.environ[VARIABLE] == "3"
    limit_threads(0)
    assert thread_limit() == torch.get_num_threads() == available_cores() >= 1


@pytest.mark.parametrize(
    ("value", "limit"), [("4", 4), ("2,1", 2), (" 3 ", 3), ("", 0), ("many", 0), ("-1", 0)]
)
def test_the_variable_is_read_as_openmp_does(
    monkeypatch: pytest.MonkeyPatch, value: str, limit: int
) -> None:
    monkeypatch.setenv(VARIABLE, value)
    assert thread_limit() == limit
    monkeypatch.delenv(VARIABLE)
    assert thread_limit() == 0


@pytest.mark.parametrize(("before", "policy"), [(None, "PASSIVE"), ("active", "ACTIVE")])
def test_threads_of_a_command_sleep_while_they_wait_unless_the_user_says_otherwise(
    before: str | None, policy: str
) -> None:
    variables = {key: value for key, value in os.environ.items() if key != WAIT_POLICY}
    variables |= {"OMP_DISPLAY_ENV": "true"} | ({WAIT_POLICY: before} if before else {})
    script = "from slimq.cli.main import main; main()"  # reads a file after it imports torch
    ended = subprocess.run(
        [sys.executable, "-c", script, "train", "nothing.toml"],
        capture_output=True,
        text=True,
        env=variables,
        check=False,
    )
    assert "nothing.toml: file: No such file" in ended.stderr
    assert f"OMP_WAIT_POLICY = '{policy}'" in ended.stderr
