from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from slimq.core.errors import ConfigError, InvalidInputError
from slimq_service.http.peers import Peers
from slimq_service.middleware.admin_port import PortFilter, is_served
from slimq_service.server import sockets
from slimq_service.server.sockets import listen
from slimq_service.settings import Settings
from slimq_service.settings_reading import read_settings
from waiting import until

HEALTH = ["/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"]
ADMINISTRATION = [
    ("GET", "/metrics"),
    ("POST", "/v2/repository/models/tiny/load"),
    ("POST", "/v2/repository/models/tiny/unload"),
]
BOTH = [("POST", "/v2/repository/index"), *(("GET", path) for path in HEALTH)]
REST = [
    ("GET", "/"),
    ("GET", "/docs"),
    ("GET", "/v1/policies"),
    ("POST", "/v1/policies/tiny/act"),
    ("POST", "/v1/policies/tiny/compare"),
    ("GET", "/v2/models/tiny"),
    ("POST", "/v2/models/tiny/infer"),
]
MAIN_URL, ADMIN_URL = "http://test:8000", "http://test:9000"


def is_there(service: Any, method: str, url: str) -> bool:
    options = {"json": {"observations": [[0] * 4]}} if url.endswith(("act", "compare")) else {}
    answer = service.request(method, url, **options)
    if answer.status_code != 404:
        return True
    if "/v2" in url:
        assert "on this port" in answer.json()["error"]
    else:
        assert answer.json()["code"] == "no-such-path"
    return False


def test_the_methods_of_the_service_are_at_both_ports() -> None:
    assert is_served("*", administers=True)
    assert is_served("*", administers=False)


@pytest.mark.parametrize(("method", "path"), ADMINISTRATION)
def test_administration_is_at_its_own_port_alone(start: Any, method: str, path: str) -> None:
    service = start(admin_port=9000)
    assert is_there(service, method, ADMIN_URL + path)
    assert not is_there(service, method, MAIN_URL + path)


@pytest.mark.parametrize(("method", "path"), REST)
def test_everything_else_is_at_the_main_port_alone(start: Any, method: str, path: str) -> None:
    service = start(admin_port=9000)
    assert is_there(service, method, MAIN_URL + path)
    assert not is_there(service, method, ADMIN_URL + path)


@pytest.mark.parametrize(("method", "path"), BOTH)
def test_health_and_the_index_are_at_both(start: Any, method: str, path: str) -> None:
    service = start(admin_port=9000)
    assert is_there(service, method, MAIN_URL + path)
    assert is_there(service, method, ADMIN_URL + path)


def test_another_worker_is_answered_everything(tmp_path: Path) -> None:
    peers = Peers(tmp_path, "worker-0.sock")

    async def ask(path: str) -> list[str]:
        passed = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            passed.append(scope["path"])

        scope = {"type": "http", "path": path, "server": (str(tmp_path / "worker-0.sock"), None)}
        await PortFilter(app, 9000, peers, str)(scope, None, None)  # type: ignore[arg-type]
        return passed

    for _, path in (*ADMINISTRATION, *REST, *BOTH):
        assert asyncio.run(ask(path)) == [path]


def test_workers_answer_at_both_ports(launch_once: Any) -> None:
    process = launch_once(SLIMQ_ADMIN_PORT="0", SLIMQ_WORKERS="2")
    admin_url = process.process.stdout.readline().split(" at ")[1].strip()
    until(lambda: process.log.read_text().count("worker ready") >= 2, 30)
    load = "/v2/repository/models/tiny/load"
    for _ in range(6):
        assert httpx.post(process.url + load).status_code == 404
        assert httpx.get(admin_url + "/v1/policies").status_code == 404
    assert httpx.post(admin_url + load, timeout=60).status_code == 200
    loaded = 'slimq_variant_loaded{policy="tiny",variant="other"} 2'
    assert loaded in httpx.get(admin_url + "/metrics").text


def test_without_the_setting_everything_is_at_one_port(service: Any) -> None:
    for method, path in (*ADMINISTRATION, *REST, *BOTH):
        assert is_there(service, method, MAIN_URL + path)


def test_a_wrong_port_is_counted(start: Any) -> None:
    service = start(admin_port=9000)
    service.get(MAIN_URL + "/metrics")
    text = service.get(ADMIN_URL + "/metrics").text
    assert 'slimq_http_errors_total{code="no-such-path"} 1.0\n' in text


def test_keys_hold_at_both_ports(start: Any) -> None:
    service = start(admin_port=9000, admin_key="key")
    url = ADMIN_URL + "/v2/repository/models/tiny/load"
    assert service.request("POST", url).status_code == 401
    assert service.request("POST", url, headers={"x-api-key": "key"}).status_code == 200


def test_a_process_listens_at_both_ports_and_says_where(launch_once: Any) -> None:
    process = launch_once(SLIMQ_ADMIN_PORT="0")
    assert process.process.stdout is not None
    line = process.process.stdout.readline()
    assert line.startswith("slimq: metrics and administration at http://127.0.0.1:")
    admin_url = line.split(" at ")[1].strip()
    assert admin_url != process.url
    lying = {"host": admin_url.removeprefix("http://")}
    assert httpx.get(process.url + "/metrics", headers=lying).status_code == 404
    assert "slimq_info" in httpx.get(admin_url + "/metrics").text
    act = {"json": {"observations": [[0] * 4]}}
    assert httpx.post(process.url + "/v1/policies/tiny/act", **act).status_code == 200
    assert httpx.post(admin_url + "/v1/policies/tiny/act", **act).status_code == 404


def test_both_ports_the_same_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"SLIMQ_ADMIN_PORT: .*must differ from SLIMQ_PORT"):
        read_settings(port=9000, admin_port=9000)
    assert read_settings(port=0, admin_port=0).admin_port == 0
    bind, bound = sockets.bind, []

    def bind_once(host: str, port: int) -> Any:
        bound[:] = bound or [bind(host, port)]
        return contextlib.nullcontext(bound[0])

    monkeypatch.setattr("slimq_service.server.sockets.bind", bind_once)
    settings = Settings(policies=tmp_path, port=0, admin_port=0)
    with pytest.raises(InvalidInputError, match="admin port"), contextlib.ExitStack() as opened:
        listen(settings, opened)
    bound[0].close()
