from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slimq.core.errors import ConfigError
from slimq_service.settings import Settings
from slimq_service.settings_reading import read_settings
from slimq_service.settings_types import MAX_SOCKET_BYTES


@pytest.mark.parametrize("tcp", [{"port": 9000}, {"host": "::1"}, {"port": 9000, "host": "::1"}])
def test_a_unix_socket_with_a_host_or_port_is_refused(
    monkeypatch: pytest.MonkeyPatch, tcp: dict[str, Any]
) -> None:
    names = " and ".join(f"SLIMQ_{name.upper()}" for name in sorted(tcp))
    problem = f"SLIMQ_UDS: expected either this or {names}, received both"
    with pytest.raises(ConfigError, match=problem):
        read_settings(uds="/tmp/s", **tcp)
    monkeypatch.setenv("SLIMQ_UDS", "/tmp/s")
    for name, value in tcp.items():
        monkeypatch.setenv(f"SLIMQ_{name.upper()}", str(value))
    with pytest.raises(ConfigError, match=problem):
        read_settings()


def test_a_flag_of_either_takes_precedence_over_variables_of_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLIMQ_HOST", "0.0.0.0")
    monkeypatch.setenv("SLIMQ_PORT", "8001")
    assert read_settings(uds=Path("/tmp/s")).uds == Path("/tmp/s")
    monkeypatch.setenv("SLIMQ_UDS", "/tmp/other")
    assert read_settings(uds=Path("/tmp/s")).uds == Path("/tmp/s")
    settings = read_settings(port=9000)
    assert (settings.uds, settings.host, settings.port) == (None, "0.0.0.0", 9000)


def test_a_unix_socket_leaves_the_default_port_to_administration() -> None:
    assert read_settings(uds="/tmp/s", admin_port=8000).admin_port == 8000
    with pytest.raises(ConfigError, match="must differ from SLIMQ_PORT"):
        read_settings(admin_port=8000)


def test_workers_get_the_socket_with_all_other_settings() -> None:
    settings = read_settings(uds="/tmp/s")
    assert Settings.model_validate_json(settings.reveal()) == settings


def test_a_relative_path_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path.root)
    assert read_settings(uds="s").uds == Path(tmp_path.root, "s")


def test_a_path_that_is_too_long_is_refused_with_the_limit_and_its_length() -> None:
    longest = "/" + "x" * (MAX_SOCKET_BYTES - 1)
    assert read_settings(uds=longest).uds == Path(longest)
    with pytest.raises(ConfigError) as refused:
        read_settings(uds=longest[:-1] + "é")
    size = MAX_SOCKET_BYTES + 1
    assert refused.value.problem == (
        f"expected the path of a socket, at most {MAX_SOCKET_BYTES} bytes, "
        f"received {size} bytes: {longest[:-1]}é"
    )


def test_an_empty_path_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMQ_UDS", "")
    with pytest.raises(ConfigError, match="SLIMQ_UDS: expected the path of a socket"):
        read_settings()
