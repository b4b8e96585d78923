from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from slimq.core.errors import ConfigError
from slimq_service.app import create_app
from slimq_service.server.serve import serve
from slimq_service.settings import Settings

LEAN = """
import asyncio, sys
import slimq_service.app, slimq_service.server.serve
from slimq_service.settings import Settings
import httpx

async def main():
    app = slimq_service.app.create_app(Settings(policies=sys.argv[1])).routes
    async with app.router.lifespan_context(app):
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
        body = {"observations": [[0, 0, 0, 0]]}
        assert (await client.post("/v1/policies/tiny/act", json=body)).status_code == 200
        assert (await client.get("/")).status_code == 200

asyncio.run(main())
heavy = {"torch", "gymnasium", "ale_py", "onnx", "matplotlib", "scipy", "tensorboard"}
print(sorted(heavy & set(sys.modules)))
"""


def test_serving_imports_no_training_dependency(tiny_repository: Path) -> None:
    command = [sys.executable, "-c", LEAN, str(tiny_repository)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_importing_reads_no_settings() -> None:
    code = "import slimq_service.app, slimq_service.server.serve, slimq_service.settings"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"SLIMQ_PORT": "not a number", "PATH": ""},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_an_execution_provider_that_is_not_there_fails_the_start(tiny_repository: Path) -> None:
    settings = Settings(policies=tiny_repository, providers=("cuda", "cpu"))
    with pytest.raises(ConfigError, match="SLIMQ_PROVIDERS: cuda is not available"):
        create_app(settings)
    with pytest.raises(ConfigError, match="SLIMQ_PROVIDERS: cuda is not available"):
        serve(settings, announce=lambda *_: pytest.fail("it is not served"))
