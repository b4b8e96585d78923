"""The end of real services under load: each connection is refused, or gets its answers."""

from __future__ import annotations

import collections
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from waiting import until
from wire import receive_all

BODY = b'{"observations": [[0, 0, 0, 0]]}'
HEAD = (
    b"POST /v1/policies/tiny/act HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n" % len(BODY)
)
ACT = HEAD + b"\r\n" + BODY
LAST_ACT = HEAD + b"Connection: close\r\n\r\n" + BODY
CLIENTS = 12


@pytest.fixture
def launch(tiny_repository: Path, tmp_path: Path, process_class: Any) -> Iterator[Any]:
    """Starts a service that has answered, with so many workers."""
    started: list[Any] = []

    def begin(workers: int, **variables: str) -> Any:
        log = tmp_path / f"log-{len(started)}"
        variables["SLIMQ_WORKERS"] = str(workers)
        started.append(process_class(tiny_repository, log, **variables))
        if workers > 1:
            until(lambda: log.read_text().count('"worker ready"') == workers, 60)
        for _ in range(4 * workers):
            with started[-1].connect() as connection:
                connection.sendall(LAST_ACT)
                assert is_whole(receive_all(connection))
        return started[-1]

    yield begin
    for process in started:
        process.close()


def is_whole(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    return head.startswith(b"HTTP/1.1 200 ") and len(body) == int(fields[b"content-length"])


def one_request(port: int) -> str:
    """What becomes of a connection that is made for one request."""
    try:
        connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        return f"connecting: {error!r}"
    with connection:
        try:
            connection.sendall(LAST_ACT)
            answer = receive_all(connection)
        except OSError as error:
            return f"after connecting: {error!r}"
    return "answered" if is_whole(answer) else f"not whole: {answer!r}"


def requests_in_a_row(port: int) -> str:
    """What becomes of a connection that is kept for as many as it is let."""
    try:
        connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    except ConnectionRefusedError:
        return "refused"
    with connection:
        count = 0
        while True:
            try:
                connection.sendall(ACT)
                answer = b""
                while not is_whole(answer or b"HTTP/1.1 200 \r\ncontent-length: 1\r\n\r\n"):
                    part = connection.recv(65_536)
                    if not part:
                        return "answered" if count and not answer else f"cut off: {answer!r}"
                    answer += part
            except OSError as error:
                return f"after {count} answers: {error!r}"
            count += 1
            if b"\r\nconnection: close\r\n" in answer:
                return "answered"


def outcomes_of(process: Any, client: Callable[[int], str]) -> collections.Counter[str]:
    """What becomes of connections that are made all the time while a service is told to end."""
    outcomes: collections.Counter[str] = collections.Counter()
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            outcomes[client(process.port)] += 1

    threads = [threading.Thread(target=run) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    process.process.send_signal(signal.SIGTERM)
    assert process.process.wait(40) == 0
    ended.set()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.parametrize("client", [one_request, requests_in_a_row])
@pytest.mark.parametrize("workers", [1, 2])
def test_under_load_no_connection_is_reset(
    launch: Any, workers: int, client: Callable[[int], str]
) -> None:
    outcomes = outcomes_of(launch(workers), client)
    assert set(outcomes) == {"answered", "refused"}, outcomes
    assert outcomes["answered"] >= CLIENTS


@pytest.mark.parametrize("workers", [1, 2])
def test_what_waits_to_be_accepted_is_answered(launch: Any, workers: int) -> None:
    """Whoever accepts is stopped, so that connections wait with the system when it ends."""
    process = launch(workers)
    os.kill(process.process.pid, signal.SIGSTOP)
    waiting = [process.connect() for _ in range(200)]
    for connection in waiting[:100]:
        connection.sendall(LAST_ACT)
    process.process.send_signal(signal.SIGTERM)
    os.kill(process.process.pid, signal.SIGCONT)
    for connection in waiting[100:]:
        connection.sendall(LAST_ACT)
    for connection in waiting:
        with connection:
            connection.settimeout(30)
            assert is_whole(receive_all(connection))
    assert process.process.wait(40) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_under_way_is_answered_and_the_rest_closed(launch: Any, workers: int) -> None:
    process = launch(workers)
    half_head, half_body, idle, new = (process.connect() for _ in range(4))
    half_head.sendall(LAST_ACT[:30])
    half_body.sendall(LAST_ACT[:-5])
    idle.sendall(ACT)
    assert idle.recv(15) == b"HTTP/1.1 200 OK"
    time.sleep(0.3)
    process.process.send_signal(signal.SIGTERM)

    def refused() -> bool:
        try:
            process.connect().close()
        except ConnectionRefusedError:
            return True
        return False

    until(refused, 5, every=0.01)
    new.sendall(ACT)
    assert b"\r\nconnection: close\r\n" in (answer := receive_all(new))
    assert is_whole(answer)
    receive_all(idle)  # to its end, which is no reset
    time.sleep(1.5)
    assert process.process.poll() is None
    half_head.sendall(LAST_ACT[30:])
    assert is_whole(receive_all(half_head))
    half_body.sendall(LAST_ACT[-5:])
    assert is_whole(receive_all(half_body))
    assert process.process.wait(40) == 0
    for connection in (half_head, half_body, idle, new):
        connection.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_requests_sent_ahead_are_all_answered(launch: Any, workers: int) -> None:
    process = launch(workers)
    with process.connect() as connection:
        connection.sendall(ACT * 3 + LAST_ACT[:-5])
        process.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        connection.sendall(LAST_ACT[-5:])
        assert receive_all(connection).count(b"HTTP/1.1 200 OK") == 4
    assert process.process.wait(40) == 0


def test_while_it_drains_new_connections_are_answered_by_every_worker(launch: Any) -> None:
    process = launch(2, SLIMQ_DRAIN_SECONDS="1.5")
    process.process.send_signal(signal.SIGTERM)
    until(lambda: httpx.get(process.url + "/readyz").status_code == 503, 10)
    assert {one_request(process.port) for _ in range(20)} == {"answered"}
    assert process.process.wait(40) == 0


def test_a_worker_that_is_told_to_end_answers_what_it_has_and_is_replaced(launch: Any) -> None:
    process = launch(2)
    ready = httpx.get(process.url + "/readyz").json()
    pid = ready["workers"][0]["pid"]
    ended, outcomes = threading.Event(), collections.Counter[str]()

    def run() -> None:
        while not ended.is_set():
            outcomes[one_request(process.port)] += 1

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    os.kill(pid, signal.SIGTERM)
    until(lambda: process.log.read_text().count('"worker ready"') == 3, 60)
    ended.set()
    for thread in threads:
        thread.join()
    assert set(outcomes) == {"answered"}
