"""The one command: how errors end it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from slimq.cli.main import main
from slimq.core.repository import Repository


@pytest.fixture
def fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[Any, str]]]:
    """`fail(error, *options)`: a command meets the error; its exit code and stderr."""

    def run(error: BaseException, *options: str) -> tuple[Any, str]:
        def policies(self: Repository) -> list[str]:
            raise error

        monkeypatch.setattr(Repository, "policies", policies)
        monkeypatch.setattr(sys, "argv", ["slimq", *options, "policies", "list"])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "x/y"), "x/y: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (FileExistsError(errno.EEXIST, "File exists", b"x"), "x: File exists"),
        (TimeoutError(), "TimeoutError"),
        (ConnectionError("gone"), "gone"),
    ],
)
def test_a_system_error_is_one_line_and_exit_code_2(fail: Any, error: OSError, line: str) -> None:
    assert fail(error) == (2, f"slimq: {line}\n")


def test_verbose_shows_the_traceback_of_a_system_error(fail: Any) -> None:
    code, errors = fail(OSError(errno.EIO, os.strerror(errno.EIO)), "-v")
    assert code == 2
    assert "Traceback" in errors
    assert errors.endswith("slimq: Input/output error\n")


def test_an_interrupt_exits_with_130_and_no_traceback(fail: Any) -> None:
    assert fail(KeyboardInterrupt()) == (130, "")


def test_a_bug_in_slimq_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def policies(self: Repository) -> list[str]:
        raise ZeroDivisionError

    monkeypatch.setattr(Repository, "policies", policies)
    monkeypatch.setattr(sys, "argv", ["slimq", "policies", "list"])
    with pytest.raises(ZeroDivisionError):
        main()
