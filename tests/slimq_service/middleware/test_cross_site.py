from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from slimq.core.errors import ConfigError
from slimq_service.settings_reading import read_settings

LOAD, UNLOAD = "/v2/repository/models/tiny/load", "/v2/repository/models/tiny/unload"
STREAM = "/v1/policies/tiny/stream"
LOCAL, EVIL = "http://127.0.0.1:8000", "https://evil.example"
PLAIN = {"content-type": "text/plain"}
"""What a page may send without asking first."""


def ask(service: Any, url: str = LOCAL, path: str = UNLOAD, **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return service.request("POST", url + path, content=b"{}", headers={**PLAIN, **sent})


def is_refused(answer: httpx.Response, field: str) -> bool:
    if answer.status_code == 200:
        return False
    assert answer.status_code == 403
    assert answer.json()["error"].startswith(f"{field}: expected ")
    return True


@pytest.mark.parametrize("path", [LOAD, UNLOAD])
def test_a_page_of_another_site_neither_loads_nor_unloads(service: Any, path: str) -> None:
    assert service.act("tiny", [[0] * 4]).status_code == 200
    for headers, field in (
        ({"origin": EVIL}, "Origin"),
        ({"origin": "null"}, "Origin"),
        ({"origin": ""}, "Origin"),
        ({"origin": "http://127.0.0.1:8001"}, "Origin"),
        ({"origin": "http://localhost:8000"}, "Origin"),
        ({"origin": EVIL, "sec_fetch_site": "cross-site"}, "Sec-Fetch-Site"),
        ({"origin": EVIL, "sec_fetch_site": "same-origin"}, "Origin"),
        ({"origin": LOCAL, "sec_fetch_site": "cross-site"}, "Sec-Fetch-Site"),
        ({"sec_fetch_site": "cross-site"}, "Sec-Fetch-Site"),
        ({"sec_fetch_site": "same-site"}, "Sec-Fetch-Site"),
    ):
        assert is_refused(ask(service, path=path, **headers), field), headers
    assert service.metric('slimq_http_errors_total{code="cross-site"}') == 10
    loaded = 'slimq_variant_loaded{policy="tiny",variant="fp32"}'
    assert service.metric(loaded) == 1, "nothing was unloaded"


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        (LOCAL, LOCAL),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://slimq.localhost", "https://slimq.localhost"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://10.1.2.3", "http://10.1.2.3"),
    ],
)
def test_the_services_own_pages_may(service: Any, url: str, origin: str) -> None:
    assert ask(service, url, origin=origin, sec_fetch_site="same-origin").status_code == 200


def test_what_comes_from_no_browser_is_not_asked_for_its_name(service: Any) -> None:
    assert ask(service, "http://any.example").status_code == 200


def test_on_a_loopback_address_a_page_cannot_give_its_own_name_ours(service: Any) -> None:
    rebound = "http://evil.example:8000"
    for url in (rebound, "http://localhost.evil.example", "http://127.0.0.1.evil.example"):
        answer = ask(service, url, origin=url, sec_fetch_site="same-origin")
        assert is_refused(answer, "Host")
    answer = ask(service, rebound, origin=rebound)
    assert answer.json()["error"] == (
        "Host: expected localhost, an IP address or a name of SLIMQ_ALLOWED_HOSTS, "
        "received 'evil.example:8000'"
    )


def test_hosts_that_are_allowed_are_names_of_the_service(start: Any) -> None:
    service = start(allowed_hosts=("slimq.example", "*.lab.example"))
    for name in ("slimq.example", "a.lab.example", "localhost", "127.0.0.1"):
        assert ask(service, f"http://{name}", origin=f"https://{name}").status_code == 200
    assert is_refused(ask(service, "http://evil.example", origin=EVIL), "Host")
    service = start(host="0.0.0.0", allowed_hosts=("slimq.example",))
    assert is_refused(ask(service, "http://evil.example", origin=EVIL), "Host")


def test_a_service_that_others_reach_has_any_name(start: Any) -> None:
    service = start(host="0.0.0.0")
    assert ask(service, "http://any.example", origin="https://any.example").status_code == 200
    assert is_refused(ask(service, "http://any.example", origin=EVIL), "Origin")


def test_the_port_for_administration_has_an_address_of_its_own(start: Any) -> None:
    service = start(host="0.0.0.0", admin_port=9000)
    name = "http://any.example:9000"
    assert is_refused(ask(service, name, origin=name), "Host")
    service = start(admin_port=9000, admin_host="0.0.0.0")
    assert ask(service, name, origin=name).status_code == 200


def test_an_origin_that_is_allowed_by_name_may_and_any_other_may_not(start: Any) -> None:
    service = start(cors_origins=("https://ops.example",))
    for site in ("cross-site", "same-site"):
        allowed = ask(service, origin="https://ops.example", sec_fetch_site=site)
        assert allowed.status_code == 200
    assert is_refused(ask(service, origin="https://ops.example.evil.example"), "Origin")
    service = start(cors_origins=("*",))
    assert is_refused(ask(service, origin=EVIL), "Origin")


def test_a_name_that_was_given_our_address_starts_no_game(service: Any) -> None:
    rebound = "http://evil.example:8000"
    answer = ask(service, rebound, "/v1/policies/tiny/play", origin=rebound)
    assert (answer.status_code, answer.json()["code"]) == (403, "cross-site")
    assert ask(service, LOCAL, "/v1/policies/tiny/play", origin=LOCAL).status_code != 403


def test_reading_and_acting_are_not_asked(service: Any) -> None:
    headers = {"origin": EVIL, "sec-fetch-site": "cross-site"}
    assert service.act("tiny", [[0] * 4], headers=headers).status_code == 200
    assert service.get("/v1/policies", headers=headers).status_code == 200
    assert service.request("POST", "/v2/repository/index", headers=headers).status_code == 200


def opens(server: Any, **options: Any) -> Any:
    """The problem that a WebSocket of a real process is refused with, None where it opens."""
    url = f"ws://127.0.0.1:{server.port}{STREAM}"
    try:
        with connect(url, **options) as stream:
            stream.send(bytes(16))
            assert "action" in json.loads(stream.recv())
            return None
    except InvalidStatus as refused:
        problem = json.loads(refused.response.body)
    assert problem["status"] == 403
    return problem


def test_a_page_of_another_site_opens_no_stream(server: Any) -> None:
    assert opens(server) is None
    assert opens(server, origin=server.url) is None
    for origin in (EVIL, "null", "http://127.0.0.1:1"):
        problem = opens(server, origin=origin)
        assert (problem["code"], problem["field"]) == ("cross-site", "Origin")
        assert problem["received"] == repr(origin)
    site = {"Sec-Fetch-Site": "cross-site"}
    assert opens(server, additional_headers=site)["field"] == "Sec-Fetch-Site"


def test_a_name_that_was_given_our_address_opens_no_stream(server: Any) -> None:
    lines = [
        f"GET {STREAM} HTTP/1.1",
        "Host: evil.example:8000",
        "Origin: http://evil.example:8000",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ]
    with server.connect() as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b'"code":"cross-site"' in answer
    assert b'"field":"Host"' in answer


def test_a_real_process_unloads_nothing_for_another_site(server: Any) -> None:
    for headers in ({"origin": EVIL}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
        answer = httpx.post(server.url + UNLOAD, content=b"", headers={**PLAIN, **headers})
        assert answer.status_code == 403
        assert list(answer.json()) == ["error"]
    assert httpx.post(server.url + UNLOAD).status_code == 200
    assert httpx.post(server.url + UNLOAD, headers={"origin": server.url}).status_code == 200


def test_streams_of_any_origin_are_opened_where_the_setting_says_so(launch_once: Any) -> None:
    server = launch_once(SLIMQ_CORS_ORIGINS="*")
    assert opens(server, origin=EVIL) is None
    server = launch_once(SLIMQ_CORS_ORIGINS=f"{EVIL},https://other.example")
    assert opens(server, origin=EVIL) is None
    assert opens(server, origin="https://third.example")["code"] == "cross-site"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CORS_ORIGINS", "slimq.example"),
        ("CORS_ORIGINS", "https://slimq.example/page"),
        ("CORS_ORIGINS", "https://*.example"),
        ("CORS_ORIGINS", "https://a.example,null"),
        ("ALLOWED_HOSTS", "slimq.example:8000"),
        ("ALLOWED_HOSTS", "https://slimq.example"),
        ("ALLOWED_HOSTS", "a.*"),
    ],
)
def test_origins_and_hosts_are_checked_at_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"SLIMQ_{name}", value)
    with pytest.raises(ConfigError, match=rf"SLIMQ_{name}: .*expected .*received"):
        read_settings()


def test_origins_and_hosts_are_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMQ_CORS_ORIGINS", "https://A.example/, http://localhost:3000")
    monkeypatch.setenv("SLIMQ_ALLOWED_HOSTS", "Slimq.example,*.lab.example")
    settings = read_settings()
    assert settings.cors_origins == ("https://a.example", "http://localhost:3000")
    assert settings.allowed_hosts == ("slimq.example", "*.lab.example")
    assert type(settings).model_validate_json(settings.reveal()) == settings
