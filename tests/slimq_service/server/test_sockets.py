"""Unix sockets for clients; addresses of TCP are tested with `run`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import unix_connect

from builders import build_repository
from processes import end
from running import COMMAND
from slimq.core.errors import InvalidInputError
from slimq_service.server.sockets import bind_public, listen, url_of
from slimq_service.settings import Settings
from waiting import until

KEY = "key-of-the-tests"
LOAD = "/v2/repository/models/tiny/load"
ACT = ["-H", "content-type: application/json", "-d", '{"observations": [[0, 0, 0, 0]]}']


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="u", dir="/tmp") as found:
        yield Path(found)


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "s"


class Served:
    """`slimq serve --uds` as a real process, asked with curl."""

    def __init__(self, root: Path, path: Path, log: Path, *flags: str, **variables: str) -> None:
        self.path, self.log = path, log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*COMMAND, "serve", "--policies", str(root), "--uds", str(path), *flags],
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **variables},
                text=True,
            )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()

    def curl(self, target: str, *options: str) -> tuple[int, str]:
        """The status and the body."""
        command = ["curl", "-s", "--max-time", "60", "-w", "\\n%{http_code}", *options]
        url = f"http://localhost{target}"
        command += ["--unix-socket", str(self.path), url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    def wait_for_workers(self, count: int) -> None:
        until(lambda: self.log.read_text().count("worker ready") >= count, 60)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def close(self) -> None:
        end(self.process)


@pytest.fixture
def serve(tmp_path: Path, path: Path) -> Iterator[Any]:
    """`serve(*flags, **variables)`: starts a real process on `path`."""
    root = build_repository(tmp_path / "policies")
    with contextlib.ExitStack() as started:

        def begin(*flags: str, at: Path = path, **variables: str) -> Served:
            log = tmp_path / f"{len(list(tmp_path.glob('*.log')))}.log"
            made = Served(root, at, log, *flags, **variables)
            started.callback(made.close)
            return made

        yield begin


def refusal(path: Path) -> str:
    with contextlib.ExitStack() as opened, pytest.raises(InvalidInputError) as refused:
        bind_public(path, opened)
    return str(refused.value)


def leave_stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()


def test_a_socket_that_a_dead_server_left_is_replaced(path: Path) -> None:
    leave_stale(path)
    with contextlib.ExitStack() as opened:
        bound = bind_public(path, opened)
        assert url_of(bound) == f"unix:{path}"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert not path.exists()


@pytest.mark.parametrize("backlog", [0, 9])
def test_a_socket_on_which_a_server_listens_is_refused(path: Path, backlog: int) -> None:
    with socket.socket(socket.AF_UNIX) as live, contextlib.ExitStack() as waiting:
        live.bind(str(path))
        live.listen(backlog)
        if not backlog:  # a server that is stuck, with a full queue
            client = waiting.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(path))
        inode = path.stat().st_ino
        assert refusal(path) == (
            f"uds: expected a path on which no other server listens, received {path}"
        )
        assert path.stat().st_ino == inode


@pytest.mark.parametrize("kind", ["file", "folder", "fifo", "link to a socket", "dangling link"])
def test_what_is_no_socket_is_refused_and_left_alone(path: Path, kind: str) -> None:
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        if kind == "link to a socket":
            leave_stale(path.with_name("t"))
        path.symlink_to("t")
    before = path.lstat()
    assert refusal(path) == (
        f"uds: expected the path of a socket, received {path}, which is not a socket and is kept"
    )
    assert path.lstat() == before
    assert kind != "file" or path.read_text() == "precious"


def test_a_missing_folder_is_named(folder: Path) -> None:
    (folder / "file").touch()
    for parent in ("none", "file"):
        path = folder / parent / "s"
        assert refusal(path) == f"uds: expected a path in an existing folder, received {path}"


def test_a_folder_in_which_none_can_be_created_is_refused() -> None:
    found = refusal(Path("/sys/slimq.sock"))  # not even by root
    assert found.startswith("uds: expected a path where a socket can be created, received /sys/")
    assert found.endswith(("(Operation not permitted)", "(Permission denied)"))


def test_a_system_without_unix_sockets_is_named(
    monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    assert "uds: expected a system with Unix sockets, received " in refusal(path)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o007, 0o770), (0o177, 0o600)])
def test_the_umask_decides_who_may_connect(path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with contextlib.ExitStack() as opened:
            bind_public(path, opened)
            assert path.stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)


def test_the_file_is_removed_unless_another_server_has_replaced_it(path: Path) -> None:
    with contextlib.ExitStack() as second:
        with contextlib.ExitStack() as first:
            bind_public(path, first).close()  # as at the end, while requests are finished
            replaced = bind_public(path, second)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        assert url_of(replaced) == f"unix:{path}"
    assert not path.exists()
    with contextlib.ExitStack() as opened:
        bind_public(path, opened)
        path.unlink()
        path.write_text("precious")
    assert path.read_text() == "precious"


def test_administration_keeps_a_port_of_its_own(path: Path) -> None:
    settings = Settings(uds=path, admin_port=0)
    with contextlib.ExitStack() as opened:
        bound, known = listen(settings, opened)
        port = bound[1].getsockname()[1]
        assert [url_of(one) for one in bound] == [f"unix:{path}", f"http://127.0.0.1:{port}"]
        assert known.admin_port == port
    taken = settings.model_copy(update={"admin_host": "no.such.host.invalid"})
    with contextlib.ExitStack() as opened, pytest.raises(InvalidInputError, match="host and port"):
        listen(taken, opened)
    assert not path.exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_clients_of_the_socket_need_the_key_and_workers_do_not(
    serve: Any, path: Path, workers: int
) -> None:
    flags = ("--workers", str(workers))
    service = serve(*flags, SLIMQ_API_KEY=KEY, SLIMQ_ACCESS_LOG="1")
    assert service.line.endswith(f" at unix:{path}\n")
    if workers > 1:
        service.wait_for_workers(workers)
    assert service.curl("/healthz") == (200, '{"alive":true}')
    act, key = "/v1/policies/tiny/act", ("-H", f"X-API-Key: {KEY}")
    for _ in range(3 * workers):
        for target, options in (("/metrics", ()), (act, ACT), (LOAD, ("-d", "{}")), ("/docs", ())):
            status, body = service.curl(target, *options, "-H", "Host: peer")
            assert status == 401, body
        assert service.curl(act, *ACT, *key)[0] == 200
    assert service.curl(LOAD, "-d", "", *key)[0] == 200
    status, text = service.curl("/metrics", *key)
    assert status == 200
    answered = f'slimq_requests_total{{policy="tiny",variant="fp32"}} {3 * workers}'
    assert f"{answered}.0\n" in text or f"{answered}\n" in text
    loaded = f'slimq_variant_loaded{{policy="tiny",variant="other"}} {workers}'
    assert loaded in text, "workers pass loads on to each other"
    assert service.stop() == 0
    assert not path.exists()
    log = service.log.read_text()
    assert "Traceback" not in log
    lines = [json.loads(line) for line in log.splitlines() if '"request"' in line]
    assert {line["client"] for line in lines} == {"unix"}


def test_no_name_makes_a_client_a_worker(serve: Any, folder: Path) -> None:
    """Neither that of the public socket nor that of the client's own."""
    home = folder / "slimq-x"
    home.mkdir()
    path = home / "worker-0.sock"
    service = serve("--workers", "2", at=path, SLIMQ_API_KEY=KEY, TMPDIR=str(folder))
    service.wait_for_workers(2)
    (own,) = {one.parent for one in folder.glob("slimq-*/worker-1.sock")}
    assert own.stat().st_mode & 0o777 == 0o700
    for index in range(6):
        assert service.curl("/metrics")[0] == 401
        with socket.socket(socket.AF_UNIX) as client:
            client.bind(str(own / f"worker-0.sock-{index}"))
            client.connect(str(path))
            client.sendall(b"GET /metrics HTTP/1.1\r\nhost: peer\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 401 ")


def test_headers_of_proxies_and_browsers_are_read_as_from_this_machine(serve: Any) -> None:
    service = serve(SLIMQ_ACCESS_LOG="1")
    forwarded = ("-H", "X-Forwarded-For: 203.0.113.9", "-H", "X-Forwarded-Host: slimq.example")
    accept = ("-H", "Accept: application/json")
    assert "http://slimq.example/v1" in service.curl("/", *accept, *forwarded)[1]
    assert "http://localhost/v1" in service.curl("/", *accept, "--http1.0", "-H", "Host:")[1]
    evil = ("-H", "Origin: https://evil.example")
    assert service.curl(LOAD, "-d", "{}", *evil)[0] == 403
    own = ("-H", "Origin: http://slimq.example", "-H", "Host: slimq.example")
    assert service.curl(LOAD, "-d", "{}", *own)[0] == 200
    assert service.stop() == 0
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    clients = [line["client"] for line in lines if line["event"] == "request"]
    assert clients == ["203.0.113.9", "unix", "unix", "unix"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stream_opens_with_the_key_alone(serve: Any, path: Path, workers: str) -> None:
    service = serve("--workers", workers, SLIMQ_API_KEY=KEY)
    url = "ws://localhost/v1/policies/tiny/stream"
    with pytest.raises(InvalidStatus, match="401"):
        unix_connect(str(path), url).close()
    with unix_connect(str(path), url, additional_headers={"X-API-Key": KEY}) as stream:
        stream.send(bytes(16))
        assert "fp32" in str(stream.recv(30))
    assert service.stop() == 0


def test_administration_is_not_at_the_socket(serve: Any) -> None:
    service = serve("--workers", "2", SLIMQ_ADMIN_PORT="0")
    admin_url = service.process.stdout.readline().split(" at ")[1].strip()
    service.wait_for_workers(2)
    for _ in range(4):
        assert service.curl("/metrics")[0] == 404
        assert service.curl(LOAD, "-d", "")[0] == 404
    assert httpx.post(admin_url + LOAD, timeout=60).status_code == 200
    loaded = 'slimq_variant_loaded{policy="tiny",variant="other"} 2'
    assert loaded in httpx.get(admin_url + "/metrics").text


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_service_is_succeeded_and_a_living_one_is_not(
    serve: Any, path: Path, workers: str
) -> None:
    first = serve("--workers", workers)
    assert first.curl("/healthz")[0] == 200
    first.process.kill()
    first.process.wait()
    assert path.is_socket()
    second = serve("--workers", workers)
    assert second.curl("/healthz")[0] == 200
    third = serve("--workers", workers)
    assert (third.line, third.process.wait(60)) == ("", 2)
    assert third.log.read_text() == (
        f"slimq: uds: expected a path on which no other server listens, received {path}\n"
    )
    assert second.curl("/healthz")[0] == 200


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_request_under_way_is_answered_at_the_end(serve: Any, path: Path, workers: str) -> None:
    service = serve("--workers", workers)
    assert service.curl("/healthz")[0] == 200
    body = b'{"observations": [[0, 0, 0, 0]]}'
    head = b"POST /v1/policies/tiny/act HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(path))
        client.sendall(head + b"content-length: %d\r\n\r\n" % len(body))
        time.sleep(0.5)
        service.process.send_signal(signal.SIGTERM)
        until(lambda: not connects(path), 30)
        client.sendall(body)
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert service.process.wait(60) == 0
    assert not path.exists()


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--port", "1"], "settings: SLIMQ_UDS: expected either this or SLIMQ_PORT, received both"),
        (["--uds", "/tmp/" + "x" * 200], "at most 107 bytes, received 205 bytes: /tmp/xxx"),
        (["--uds", "/tmp"], "uds: expected the path of a socket, received /tmp, which is"),
        (["--uds", "/tmp/none/s"], "uds: expected a path in an existing folder"),
    ],
)
def test_a_wrong_path_is_one_line_and_exits_with_2(serve: Any, flags: list[str], said: str) -> None:
    service = serve(*flags)
    assert (service.line, service.process.wait(60)) == ("", 2)
    text = service.log.read_text()
    assert said in text
    assert text.startswith("slimq: ")
    assert text.count("\n") == 1
