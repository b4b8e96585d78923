from __future__ import annotations

import contextlib
import errno
import select
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slimq_service.server.closing_listeners import accept_waiting, refuse_new
from slimq_service.server.sockets import bind, bind_unix


def tcp(host: str) -> tuple[socket.socket, Callable[[], socket.socket]]:
    listener = bind(host, 0)
    address = listener.getsockname()[:2]
    return listener, lambda: socket.create_connection(address, timeout=10)


def unix(path: Path) -> tuple[socket.socket, Callable[[], socket.socket]]:
    def connect() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            raise
        return connection

    return bind_unix(path), connect


@pytest.mark.parametrize("kind", ["127.0.0.1", "::1", "unix"])
def test_who_waits_is_accepted_and_who_comes_later_refused(kind: str, tmp_path: Path) -> None:
    if kind == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("there is no IPv6")
    listener, connect = unix(tmp_path / "socket") if kind == "unix" else tcp(kind)
    listener.settimeout(0)
    with contextlib.ExitStack() as opened:
        clients = [opened.enter_context(connect()) for _ in range(5)]
        for client in clients:
            client.sendall(b"asked")
        time.sleep(refuse_new(listener))
        accepted = [opened.enter_context(one) for one in accept_waiting(listener)]
        assert len(accepted) == 5
        assert list(accept_waiting(listener)) == []
        listener.close()
        for connection in accepted:
            connection.settimeout(10)
            assert connection.recv(10) == b"asked"
            connection.sendall(b"answered")
        assert {client.recv(10) for client in clients} == {b"answered"}
        with pytest.raises(ConnectionRefusedError):
            connect()


@pytest.mark.skipif(sys.platform != "linux", reason="there is no filter")
def test_who_comes_before_the_socket_is_closed_does_not_wait_to_be_accepted() -> None:
    """It would be reset then; so it hears nothing, and is refused when its system asks again."""
    listener, _ = tcp("127.0.0.1")
    listener.settimeout(0)
    with socket.socket() as client:
        assert refuse_new(listener) > 0
        client.settimeout(0)
        assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        assert list(accept_waiting(listener)) == []
        listener.close()
        _, ready, _ = select.select([], [client], [], 10)
        assert ready
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
