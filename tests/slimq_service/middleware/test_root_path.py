from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from slimq.core.errors import ConfigError
from slimq_service.settings_reading import read_settings
from waiting import until

PREFIX = "/slimq"
ADMIN = {"authorization": "Bearer administration"}
UNLOAD = "/v2/repository/models/tiny/unload"
ACT = {"json": {"observations": [[0] * 4]}}
PROXY = {
    "host": "inner",
    "x-forwarded-host": "public.example",
    "x-forwarded-proto": "https",
    "x-forwarded-for": "203.0.113.9",
}


@pytest.fixture(scope="module")
def behind(launch_once: Any) -> Any:
    """A process that has a prefix, and a key for administration."""
    return launch_once(
        SLIMQ_ROOT_PATH=PREFIX + "/", SLIMQ_ADMIN_KEY="administration", SLIMQ_ACCESS_LOG="1"
    )


@pytest.mark.parametrize("prefix", [PREFIX, ""])
def test_the_prefix_may_be_stripped_or_not(behind: Any, prefix: str) -> None:
    url = behind.url + prefix
    assert httpx.get(url + "/healthz").json() == {"alive": True}
    assert httpx.get(url + "/v1/policies/tiny").status_code == 200
    assert httpx.post(url + "/v1/policies/tiny/act", **ACT).status_code == 200
    tensor = {"name": "observations", "shape": [1, 4], "datatype": "FP32", "data": [0] * 4}
    infer = httpx.post(url + "/v2/models/tiny/infer", json={"inputs": [tensor]})
    assert infer.status_code == 200
    with connect(url.replace("http", "ws") + "/v1/policies/tiny/stream") as stream:
        stream.send(bytes(16))
        assert "action" in json.loads(stream.recv())
    missing = httpx.get(url + "/v2/models/none")
    assert (missing.status_code, list(missing.json())) == (404, ["error"])


def overview(url: str, headers: dict[str, str] | None = None) -> str:
    """The content of the page, as JSON."""
    return httpx.get(url, headers={**(headers or {}), "accept": "application/json"}).text


def test_links_have_the_prefix(behind: Any) -> None:
    for path in (PREFIX, PREFIX + "/", "/"):
        page = httpx.get(behind.url + path)
        assert page.status_code == 200
        for link in ("docs", "v1/policies", "readyz", "metrics"):
            assert f'href="{PREFIX}/{link}"' in page.text
        for file in ("main.js", "page.css", "tokens.css"):
            assert f'"{PREFIX}/page/{file}"' in page.text
            assert httpx.get(f"{behind.url}{PREFIX}/page/{file}").status_code == 200
        assert f"{behind.url}{PREFIX}/v1/policies/tiny/act" in overview(behind.url + path)
    document = httpx.get(behind.url + "/openapi.json").json()
    assert document["servers"] == [{"url": PREFIX}]


def test_links_are_those_that_a_trusted_proxy_says(behind: Any) -> None:
    found = overview(behind.url + "/", PROXY)
    assert f"https://public.example{PREFIX}/v1/policies/tiny/act" in found
    headers = {**PROXY, "x-forwarded-prefix": "/elsewhere"}
    page = httpx.get(behind.url + "/", headers=headers).text
    found = overview(behind.url + "/", headers)
    assert "https://public.example/elsewhere/v1/policies/tiny/act" in found
    assert 'href="/elsewhere/docs"' in page
    document = httpx.get(behind.url + "/openapi.json", headers=headers).json()
    assert document["servers"] == [{"url": "/elsewhere"}]
    assert '"client": "203.0.113.9"' in behind.log.read_text()


def test_nobody_else_is_believed(launch_once: Any) -> None:
    server = launch_once(SLIMQ_FORWARDED_ALLOW_IPS="10.0.0.0/8", SLIMQ_ACCESS_LOG="1")
    headers = {**PROXY, "x-forwarded-prefix": "/elsewhere"}
    page = httpx.get(server.url + "/", headers=headers).text
    assert "http://inner/v1/policies/tiny/act" in overview(server.url + "/", headers)
    assert 'href="docs"' in page
    assert "elsewhere" not in page
    assert "servers" not in httpx.get(server.url + "/openapi.json", headers=headers).json()
    assert "203.0.113.9" not in server.log.read_text()


def raw(server: Any, target: str) -> int:
    """The status of a POST whose path is sent as it stands."""
    head = f"POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(head.encode())
        return int(connection.recv(65_536).split()[1])


SPELLINGS = [
    *(UNLOAD, "/{p}" + UNLOAD, "/{p}/{p}" + UNLOAD, "/{p}/" + UNLOAD, "/{p}/." + UNLOAD),
    *("//{p}" + UNLOAD, "/./{p}" + UNLOAD, "/{p}/x/.." + UNLOAD, "/{p}/healthz/.." + UNLOAD),
    *("/{p}%2Fv2/repository/models/tiny/unload", "/%7Bp%7D" + UNLOAD, "/{p}//v2" + UNLOAD[3:]),
    *("/{p}/v2%2Frepository%2Fmodels%2Ftiny%2Funload", "/{p}/v2/repository//models/tiny/unload"),
    *("/{p}/v2/repository/models//tiny/unload", "/%73limq" + UNLOAD, "/SLIMQ" + UNLOAD),
    *("/{p}/%2e" + UNLOAD, "/{p}/v2/./repository/models/tiny/unload", "/{p};a=b" + UNLOAD),
    *("http://test/{p}" + UNLOAD, "/{p}" + UNLOAD + "?x=/healthz", "/{p}/v2/repository%2fmodels"),
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_gets_around_the_key(behind: Any, spelling: str) -> None:
    assert httpx.post(behind.url + "/v1/policies/tiny/act", **ACT).status_code == 200
    target = spelling.replace("{p}", PREFIX[1:])
    assert raw(behind, target) in (400, 401, 404, 405)
    loaded = 'slimq_variant_loaded{policy="tiny",variant="fp32"} 1'
    assert loaded in httpx.get(behind.url + "/metrics").text, "nothing was unloaded"


def test_the_key_opens_both_spellings(behind: Any) -> None:
    for prefix in (PREFIX, ""):
        assert httpx.post(behind.url + prefix + UNLOAD, headers=ADMIN).status_code == 200
    assert httpx.post(behind.url + PREFIX + PREFIX + UNLOAD, headers=ADMIN).status_code == 404


def test_ports_and_other_sites_are_told_by_the_path_that_is_left(start: Any) -> None:
    service = start(root_path=PREFIX, admin_port=9000)
    main, admin = "http://127.0.0.1:8000" + PREFIX, "http://127.0.0.1:9000" + PREFIX
    assert service.request("POST", main + UNLOAD).status_code == 404
    assert service.get(main + "/metrics").status_code == 404
    assert service.request("POST", admin + UNLOAD).status_code == 200
    refused = service.request("POST", admin + UNLOAD, headers={"origin": "https://evil.example"})
    assert refused.status_code == 403


def test_a_page_behind_a_proxy_is_of_the_host_that_it_was_asked_for(start: Any) -> None:
    service = start(allowed_hosts=("public.example",))
    url, page = "http://127.0.0.1:8000" + UNLOAD, {"origin": "https://public.example"}
    assert service.request("POST", url, headers=page).status_code == 403
    forwarded = {**page, "x-forwarded-host": "public.example"}
    assert service.request("POST", url, headers=forwarded).status_code == 200
    evil = {"origin": "https://evil.example", "x-forwarded-host": "evil.example"}
    answer = service.request("POST", url, headers=evil)
    assert answer.json()["error"].startswith("X-Forwarded-Host: expected localhost")
    rebound = {"x-forwarded-host": "localhost", "origin": "http://evil.example:8000"}
    answer = service.request("POST", "http://evil.example:8000" + UNLOAD, headers=rebound)
    assert answer.json()["error"].startswith("Host: expected localhost")
    service = start(allowed_hosts=("public.example",), forwarded_allow_ips=())
    assert service.request("POST", url, headers=forwarded).status_code == 403


def test_workers_tell_each_other_without_the_prefix(launch_once: Any) -> None:
    server = launch_once(SLIMQ_ROOT_PATH=PREFIX, SLIMQ_WORKERS="2")
    until(lambda: server.log.read_text().count("worker ready") >= 2, 30)
    url = server.url + PREFIX
    answer = httpx.post(url + UNLOAD.replace("unload", "load"), timeout=60)
    assert answer.status_code == 200, answer.text
    assert httpx.get(url + "/v2/models/stats").status_code == 200


@pytest.mark.parametrize(
    "value", ["slimq", "/a//b", "/../a", "/a/.", "/a?b", "/a b", "//a", "/v1", "/docs/x", "/é"]
)
def test_a_prefix_is_checked_at_the_start(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SLIMQ_ROOT_PATH", value)
    with pytest.raises(ConfigError, match=r"SLIMQ_ROOT_PATH: .*expected .*received"):
        read_settings()


def test_a_prefix_and_peers_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMQ_FORWARDED_ALLOW_IPS", "10.0.0.0/8, ::1,unix")
    settings = read_settings(root_path="/a/b.c/")
    assert (settings.root_path, settings.forwarded_allow_ips) == (
        "/a/b.c",
        ("10.0.0.0/8", "::1", "unix"),
    )
    assert read_settings(root_path="/").root_path == ""
    for value in ("proxy", "10.0.0.1/8", "10.0.0.0/99"):
        monkeypatch.setenv("SLIMQ_FORWARDED_ALLOW_IPS", value)
        with pytest.raises(ConfigError, match=r"SLIMQ_FORWARDED_ALLOW_IPS: .*expected addresses"):
            read_settings()
