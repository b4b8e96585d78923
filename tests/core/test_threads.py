from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from slimq.core.threads import VARIABLE, available_cores, limit_threads, thread_limit


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
