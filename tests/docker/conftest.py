"""The image and the stack, as containers that really run."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine import FOLDER, ROOT, Engine, Stack, make_bases, missing, open_engine, watched

IMAGE = "slimq-service:latest"


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """podman with the images that stand in for a hub's. It must be there where CI is set."""
    lacking = missing()
    if lacking:
        problem = f"this machine lacks {', '.join(lacking)}"
        if os.environ.get("CI"):
            pytest.fail(problem)
        pytest.skip(problem)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slimq" / "stack"
    with open_engine(cache, Path(tempfile.gettempdir()) / "slimq-stack") as made:
        make_bases(made)
        yield made


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """The service's image, built from its Dockerfile on the base that stands in."""
    build(engine, "service", REVISION="one")
    return IMAGE


@pytest.fixture(scope="session")
def loadtest_image(engine: Engine) -> None:
    """That of the load test."""
    build(engine, "loadtest")


def build(engine: Engine, name: str, **arguments: str) -> None:
    file = ROOT / "docker" / f"{name}.Dockerfile"
    base = "localhost/slimq-test/base"
    engine.build(f"slimq-{name}:latest", file, ROOT, PYTHON_IMAGE=base, **arguments)


@pytest.fixture(scope="session")
def release(engine: Engine, image: str) -> Callable[[str], None]:
    """`release(name)`: makes the newest image what this Dockerfile of the stack says."""
    return lambda name: engine.build(image, FOLDER / f"{name}.Dockerfile", FOLDER, IMAGE=image)


@pytest.fixture(scope="module")
def compose(engine: Engine, image: str) -> Iterator[Callable[..., Stack]]:
    """`compose(*files)`: a stack of these compose files, up; the one before it goes down."""
    made: list[Stack] = []
    with watched(engine) as address:

        def bring_up(*files: Path) -> Stack:
            variables = {
                "SLIMQ_SERVICE_PORT": free_port(),
                "SLIMQ_PROMETHEUS_PORT": free_port(),
            }
            while made:
                made.pop().down()
            stack = Stack(engine, address, list(files), variables)
            made.append(stack)
            stack.up()
            return stack

        yield bring_up
        while made:
            made.pop().down()
