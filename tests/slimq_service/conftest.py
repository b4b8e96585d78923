"""The service in this process (no sockets), and as a real process where that matters."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from builders import build_repository, make_mlp, make_policy_manifest, make_variant_manifest
from places import POLICIES
from processes import end
from running import COMMAND
from slimq.core.manifest import FileEntry
from slimq_service.app import create_app
from slimq_service.http.peers import Peers
from slimq_service.settings import Settings
from waiting import until


class InProcess:
    """The application on an event loop of its own, driven request by request."""

    def __init__(self, root: Path, peers: Peers | None = None, **settings: Any) -> None:
        self.settings = Settings(policies=root, **{"retry_seconds": 0.0, **settings})
        self.app = create_app(self.settings, peers=peers)
        self.runner = asyncio.Runner()
        self._lifespan = self.app.routes.router.lifespan_context(self.app.routes)
        self.run(self._lifespan.__aenter__())
        transport = httpx.ASGITransport(self.app.asgi, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://test")

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.run(self.client.request(method, path, **options))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def act(self, policy: str, observations: Any, **options: Any) -> httpx.Response:
        path = f"/v1/policies/{policy}/act"
        return self.request("POST", path, json={"observations": observations}, **options)

    def together(self, count: int, method: str, path: str, **options: Any) -> list[httpx.Response]:
        async def all_at_once() -> list[httpx.Response]:
            return await asyncio.gather(
                *(self.client.request(method, path, **options) for _ in range(count))
            )

        return self.run(all_at_once())

    def metric(self, line: str) -> float:
        text = self.get("/metrics").text
        values = [row.rpartition(" ")[2] for row in text.splitlines() if row.startswith(line + " ")]
        assert len(values) == 1, f"{line}: {len(values)} series"
        return float(values[0])

    def until(self, holds: Callable[[], object], seconds: float = 5.0) -> None:
        """Runs the loop until something holds."""
        until(holds, seconds, every=0.02, pause=lambda gap: self.run(asyncio.sleep(gap)))

    def close(self) -> None:
        self.run(self.client.aclose())
        self.run(self._lifespan.__aexit__(None, None, None))
        self.runner.close()


class Process:
    """`slimq serve` as a real process on a free port."""

    def __init__(self, root: Path, log: Path, before: Sequence[str] = (), **variables: str) -> None:
        """Starts it, by the command `before` its own if there is one."""
        self.log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*before, *COMMAND, "serve", "--policies", str(root), "--port", "0"],
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **variables},
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert " at http://" in line, log.read_text()
        self.url = line.split(" at ")[1].strip()
        self.port = int(self.url.rpartition(":")[2])
        self.grpc = ""
        if "SLIMQ_GRPC_PORT" in variables:
            line = self.process.stdout.readline()
            assert "gRPC at " in line, log.read_text()
            self.grpc = line.split(" at ")[1].strip()
        assert httpx.get(self.url + "/healthz", timeout=60).status_code == 200

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def close(self) -> None:
        end(self.process)


@pytest.fixture(scope="session")
def in_process() -> type[InProcess]:
    """`InProcess`, likewise."""
    return InProcess


@pytest.fixture(scope="session")
def process_class() -> type[Process]:
    """`Process`, for tests that start the service in a way of their own."""
    return Process


class Repositories:
    """Changes a repository behind the service's back, as a publisher would."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, policy: str, variant: str) -> Path:
        return self.root / policy / "variants" / variant

    def model(self, policy: str, variant: str) -> Path:
        return next(self.folder(policy, variant).glob("model-*.onnx"))

    def publish(self, policy: str, variant: str, model: bytes) -> str:
        home = self.folder(policy, variant)
        home.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(model).hexdigest()
        entry = FileEntry(path=f"model-{digest[:12]}.onnx", bytes=len(model), sha256=digest)
        (home / entry.path).write_bytes(model)
        manifest = make_variant_manifest(policy, variant, entry)
        (home / "new").write_text(manifest.model_dump_json())
        (home / "new").replace(home / "variant.json")
        return digest

    def add_policy(self, name: str) -> None:
        (self.root / name).mkdir()
        manifest = make_policy_manifest(name)
        self.publish(name, "fp32", make_mlp(5))
        (self.root / name / "policy.json").write_text(manifest.model_dump_json())

    def corrupt(self, policy: str, variant: str) -> None:
        path = self.model(policy, variant)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(bytes(content))


@pytest.fixture
def repositories(tiny_repository: Path) -> Repositories:
    return Repositories(tiny_repository)


@pytest.fixture
def service(tiny_repository: Path) -> Iterator[InProcess]:
    made = InProcess(tiny_repository)
    yield made
    made.close()


@pytest.fixture
def start(tiny_repository: Path) -> Iterator[Any]:
    """Starts the service in this process with settings, on the small repository or another."""
    started: list[InProcess] = []

    def begin(root: Path = tiny_repository, **settings: Any) -> InProcess:
        started.append(InProcess(root, **settings))
        return started[-1]

    yield begin
    for one in started:
        one.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One real process for a module's tests; limits are small."""
    folder = tmp_path_factory.mktemp("server")
    root = build_repository(folder / "policies")
    variables = {"SLIMQ_MAX_BODY_BYTES": "200000", "SLIMQ_BODY_SECONDS": "1"}
    process = Process(root, folder / "log", **variables)
    yield process
    process.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def launch_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Starts real processes on a small repository for all of a module's tests."""
    folder = tmp_path_factory.mktemp("launched")
    started: list[Process] = []

    def begin(**variables: str) -> Process:
        name = str(len(started))
        root = build_repository(folder / name)
        started.append(Process(root, folder / f"{name}.log", **variables))
        return started[-1]

    yield begin
    for process in started:
        process.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def observations() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(3, 4)).astype(np.float32)


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, size=(2, 4, 84, 84), dtype=np.uint8)


@pytest.fixture
def launch() -> Iterator[Any]:
    """Starts real processes that end with the test."""
    started: list[Process] = []

    def begin(root: Path, log: Path, **variables: str) -> Process:
        started.append(Process(root, log, **variables))
        return started[-1]

    yield begin
    for process in started:
        process.close()


@pytest.fixture
def address(launch: Any, tmp_path: Path) -> Iterator[str]:
    """Host and port of a real process on the shipped policies, which must log no traceback."""
    process = launch(POLICIES, tmp_path / "log")
    yield process.url.removeprefix("http://")
    assert "Traceback" not in process.log.read_text()
