"""The health check of the image, as the program that the container runs."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docker" / "healthcheck.py"


class Handler(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        known = self.path in ("/healthz", "/readyz")
        self.send_response(self.status if known else 404)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def handler() -> Iterator[tuple[type[Handler], int]]:
    kind = type("OwnHandler", (Handler,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield kind, server.server_port
        server.shutdown()
        thread.join()


def check(port: object, *path: str, **variables: str) -> int:
    environment = {**os.environ, "SLIMQ_PORT": str(port), "http_proxy": "http://127.0.0.1:1"}
    environment |= variables
    command = [sys.executable, str(SCRIPT), *path]
    return subprocess.run(command, env=environment, timeout=30).returncode


def test_a_service_that_answers_is_healthy(handler: tuple[type[Handler], int]) -> None:
    assert check(handler[1]) == 0


def test_another_path_can_be_asked(handler: tuple[type[Handler], int]) -> None:
    assert check(handler[1], "/readyz") == 0
    assert check(handler[1], "/elsewhere") == 1


def test_a_service_that_answers_with_an_error_is_not(handler: tuple[type[Handler], int]) -> None:
    handler[0].status = 503
    assert check(handler[1]) == 1


def test_a_port_where_nobody_listens_is_not_healthy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert check(taken.getsockname()[1]) == 1


def test_a_port_that_is_no_number_is_not_healthy() -> None:
    assert check("none") == 1


class UnixServer(http.server.HTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        self.socket.bind(str(self.server_address))

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        return self.socket.accept()[0], ("", 0)


def test_a_unix_socket_is_asked_instead_of_the_port() -> None:
    with tempfile.TemporaryDirectory(prefix="h", dir="/tmp") as folder:
        path = f"{folder}/s"
        assert check(8000, SLIMQ_UDS=path) == 1
        with UnixServer(path, Handler) as server:  # type: ignore[arg-type]
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            assert check(1, SLIMQ_UDS=path) == 0
            assert check(1, "/elsewhere", SLIMQ_UDS=path) == 1
            server.shutdown()
            thread.join()
