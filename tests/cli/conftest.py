"""A real service for the commands that talk to one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builders import build_repository
from reports import make_report
from running import COMMAND, serve


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of `slimq serve` on a small repository."""
    root = build_repository(tmp_path_factory.mktemp("served") / "policies")
    with serve(root, 900) as (_, url):
        yield url


@pytest.fixture
def served_with(tiny_repository: Path) -> Iterator[Any]:
    """`served_with(SLIMQ_API_KEY=…)`: the URL of a `slimq serve` with these variables."""
    with contextlib.ExitStack() as started:

        def begin(**variables: str) -> str:
            return started.enter_context(serve(tiny_repository, 900, **variables))[1]

        yield begin


@pytest.fixture
def served_pong() -> Iterator[str]:
    """The URL of `slimq serve` on the shipped policies."""
    policies = Path(__file__).parents[2] / "policies"
    with serve(policies, 600) as (_, url):
        yield url


@pytest.fixture
def slimq() -> Any:
    """Runs the command as a user would: exit code, stdout, stderr."""

    def run(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[Any]:
        variables = {**os.environ, **options.pop("variables", {})}
        options = {"text": True, "timeout": 300, **options}
        command = [*COMMAND, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, env=variables, check=False, **options)

    return run


@pytest.fixture
def attach(tiny_repository: Path) -> Any:
    """`attach(variant, returns, p50=…, conditions=…)`: a hand-made report of `tiny`."""
    from slimq.core.manifest import RandomPolicyRecord
    from slimq.core.publish import Publisher
    from slimq.core.repository import Repository

    repository = Repository(tiny_repository)
    publisher = Publisher(repository)
    random = RandomPolicyRecord(mean=20.0, episodes=10, seeds="held-out")
    policy = repository.policy("tiny").model_copy(update={"random_policy": random})
    publisher.publish_policy(policy, {})

    def call(
        variant: str,
        returns: list[float],
        p50: float | None = None,
        conditions: dict[str, list[float]] | None = None,
    ) -> None:
        manifest = repository.variant("tiny", variant)
        report = make_report(
            variant,
            returns,
            model_sha256=manifest.model.sha256,
            baseline_sha256=repository.variant("tiny", "fp32").model.sha256,
            p50=p50,
            size=manifest.model.bytes,
            conditions=conditions,
        )
        publisher.attach_report("tiny", variant, report)

    return call


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """`invoke("promote", "tiny", …)` in this process: exit code, stdout, stderr."""
    from slimq.cli.main import main

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["slimq", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def run(tiny_repository: Path, invoke: Any) -> Any:
    """`run("promote", "tiny", …)` on the small repository: exit code, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        found: tuple[int, str, str] = invoke(*arguments, "--policies", str(tiny_repository))
        return found

    return call
