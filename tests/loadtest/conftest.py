"""Real services for the load tests, and the load test as a function."""

from __future__ import annotations

import contextlib
import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builders import build_repository
from places import POLICIES
from running import COMMAND, announced

SLOWED = Path(__file__).parent / "scripts" / "slowed.py"
MAX_SECONDS = 900


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., tuple[str, subprocess.Popen[str]]]]:
    """`start("serve", "--policies", …)`: the URL and the process of a service."""
    with contextlib.ExitStack() as started:

        def begin(*command: str) -> tuple[str, subprocess.Popen[str]]:
            process, url = started.enter_context(announced(command, MAX_SECONDS))
            return url, process

        yield begin


@pytest.fixture(scope="module")
def served(start: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    """URL, process and repository of a `slimq serve` whose policies are those of the tests."""
    root = build_repository(tmp_path_factory.mktemp("served") / "policies")
    url, process = start(*COMMAND, "serve", "--policies", str(root), "--port", "0")
    return url, process, root


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with Pong's full network under two names, `fp32` and `same`."""
    source = POLICIES / "pong"
    folder = tmp_path_factory.mktemp("twins") / "pong"
    folder.mkdir()
    for path in (source / "policy.json", *source.glob("calibration-*.npz")):
        shutil.copy(path, folder)
    for name in ("fp32", "same"):
        home = folder / "variants" / name
        home.mkdir(parents=True)
        for path in (source / "variants" / "fp32").glob("model-*"):
            shutil.copy(path, home)
        manifest = json.loads((source / "variants" / "fp32" / "variant.json").read_text())
        manifest |= {"name": name, "report": None}
        (home / "variant.json").write_text(json.dumps(manifest))
    return folder.parent


@pytest.fixture(scope="module")
def slowed(start: Any, twins: Path) -> Callable[[float], str]:
    """`slowed(0.1)`: the URL of a service that answers for `same` with this much more work."""

    def begin(share: float) -> str:
        url: str = start(sys.executable, str(SLOWED), str(twins), "same", str(share))[0]
        return url

    return begin


@pytest.fixture
def measure() -> Callable[..., Any]:
    """`measure(url, root, policy, variants, **plan)`: the plan and what it recorded."""
    from slimq.core.client import SlimqClient
    from slimq.core.repository import Repository
    from slimq.loadtest.plan import Plan, name_subjects
    from slimq.loadtest.recording import Recording
    from slimq.loadtest.requests import read_calibration
    from slimq.loadtest.service import make_meter, make_service
    from slimq.loadtest.session import run_plan

    def run(url: str, root: Path, policy: str, variants: list[str], **options: Any) -> Any:
        with SlimqClient(url) as client:
            spec = client.policy(policy).observation
            subjects = name_subjects(variants, client.variants(policy))
        plan = Plan(subjects=subjects, baseline=subjects[0].label, **options)
        plan.check()
        recording = Recording()
        states = read_calibration(Repository(root), policy, spec)
        meter = make_meter(url, None, None, plan.timeout)
        service = make_service(url, policy, plan, states, spec, meter, None)
        gc.freeze()  # what thousands of tests have left would be collected before each block
        try:
            run_plan(service, plan, recording, lambda progress: None)
        finally:
            gc.unfreeze()
            meter.close()
        return plan, recording

    return run
