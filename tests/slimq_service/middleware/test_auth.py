from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from samples import sample_value
from slimq.core.errors import ConfigError
from slimq_service.http.peers import Peers
from slimq_service.middleware.auth import Guard, Keys, read_keys, with_keys
from slimq_service.server.logs import configure_logs
from slimq_service.settings import Settings
from slimq_service.settings_reading import read_settings
from waiting import until

API, ADMIN = "api-key-of-the-tests", "admin-key-of-the-tests"
BEARER, BEARER_ADMIN = {"authorization": f"Bearer {API}"}, {"authorization": f"Bearer {ADMIN}"}
LOAD, UNLOAD = "/v2/repository/models/tiny/load", "/v2/repository/models/tiny/unload"
HEALTH = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")
ACT = {"json": {"observations": [[0, 0, 0, 0]]}}
OTHERS = [
    ("POST", "/v1/policies/tiny/act"),
    ("POST", "/v1/policies/tiny/variants/other/act"),
    ("POST", "/v1/policies/tiny/compare"),
    ("POST", "/v2/models/tiny/infer"),
    ("POST", "/v2/repository/index"),
    ("GET", "/v1/policies"),
    ("GET", "/v2"),
    ("GET", "/v2/models/tiny/ready"),
    ("GET", "/metrics"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("POST", "/v1/policies/tiny/play"),
    ("GET", "/pages"),
    ("GET", "/nothing/here"),
    ("GET", "/healthz/"),
    ("GET", "/healthz//"),
]


def counted(service: Any, code: str) -> Any:
    return sample_value(service.app.metrics.registry, "slimq_http_errors_total", {"code": code})


@pytest.mark.parametrize(("method", "path"), [*OTHERS, ("POST", LOAD), ("POST", UNLOAD)])
def test_without_the_key_nothing_but_health_is_answered(start: Any, method: str, path: str) -> None:
    service = start(api_key=API)
    for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": API + "x"}):
        answer = service.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        document = answer.json()
        if path.startswith("/v2"):
            assert list(document) == ["error"]
        else:
            assert (document["status"], document["code"]) == (401, "unauthorized")
            assert answer.headers["content-type"] == "application/problem+json"
        assert "Bearer KEY" in answer.text
        assert API not in answer.text
    assert counted(service, "unauthorized") == 3


@pytest.mark.parametrize("path", HEALTH)
def test_health_needs_no_key(start: Any, path: str) -> None:
    service = start(api_key=API, admin_key=ADMIN)
    assert service.get(path).status_code == 200


def test_the_page_needs_no_key_but_its_content_does(start: Any) -> None:
    service = start(api_key=API)
    page = service.get("/", headers={"accept": "text/html"})
    assert page.status_code == 200
    assert "tiny" not in page.text
    for path in ("/page/main.js", "/page/tokens.css"):
        assert service.get(path).status_code == 200
    for path in ("/page/none.js", "/page/", "/page/%2e%2e/metrics", "/page/..%2fmetrics"):
        assert service.get(path).status_code == 404
    for accept in ("application/json", "text/html;q=0.1, application/*", "APPLICATION/JSON"):
        refused = service.get("/", headers={"accept": accept})
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
        assert service.get("/", headers={"accept": accept, **BEARER}).json()["policies"]
    for doubled in (["text/html", "application/json"], ["application/json", "text/html"]):
        answer = service.get("/", headers=[("accept", one) for one in doubled])
        assert answer.status_code == 401 or "tiny" not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        BEARER,
        {"authorization": f"bearer  {API}"},
        {"authorization": f"Api-Key {API}"},
        {"x-api-key": API},
        {"authorization": "Basic eDp5", "x-api-key": API},
        BEARER_ADMIN,
        {"x-api-key": ADMIN},
    ],
)
def test_either_header_and_either_key_open_everything_else(
    start: Any, headers: dict[str, str]
) -> None:
    service = start(api_key=API, admin_key=ADMIN)
    for method, path in OTHERS:
        options = ACT if path.endswith(("/act", "/compare")) else {}
        answer = service.request(method, path, headers=headers, **options)
        assert answer.status_code not in (401, 403), (path, answer.text)
    assert service.act("tiny", [[0] * 4], headers=headers).status_code == 200


def test_loading_and_unloading_need_the_administrators_key(start: Any) -> None:
    service = start(api_key=API, admin_key=ADMIN)
    for path in (LOAD, UNLOAD):
        assert service.request("POST", path).status_code == 401
        assert service.request("POST", path, headers=BEARER_ADMIN).status_code == 200
        answer = service.request("POST", path, headers=BEARER)
        assert answer.status_code == 403
        assert "www-authenticate" not in answer.headers
        assert answer.json() == {"error": "key: expected the admin key, received the API key"}
    assert (counted(service, "forbidden"), counted(service, "unauthorized")) == (2, 2)


def test_without_an_administrators_key_loading_takes_the_other(start: Any) -> None:
    service = start(api_key=API)
    assert service.request("POST", LOAD, headers=BEARER).status_code == 200


def test_with_an_administrators_key_alone_the_rest_is_open(start: Any) -> None:
    service = start(admin_key=ADMIN)
    assert service.act("tiny", [[0] * 4]).status_code == 200
    assert service.get("/metrics").status_code == 200
    assert service.request("POST", "/v2/repository/index").status_code == 200
    for headers in ({}, BEARER):
        assert service.request("POST", LOAD, headers=headers).status_code == 401
    assert service.request("POST", LOAD, headers=BEARER_ADMIN).status_code == 200


@pytest.mark.parametrize("path", ["/v2/repository/models/a%2fb/load", "/v2/repository/models/"])
def test_no_spelling_of_an_administrators_path_is_open(start: Any, path: str) -> None:
    assert start(admin_key=ADMIN).request("POST", path).status_code == 401


def test_without_keys_there_is_no_guard(service: Any) -> None:
    layer = service.app.asgi
    while hasattr(layer, "_app"):
        assert not isinstance(layer, Guard)
        layer = layer._app
    assert "securitySchemes" not in service.get("/openapi.json").json()["components"]


def websocket(service: Any, headers: list[Any], **more: Any) -> list[dict[str, Any]]:
    """What the application says to a WebSocket that opens."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.disconnect" if sent else "websocket.connect", "code": 1006}

    async def send(message: Any) -> None:
        sent.append(message)

    path = "/v1/policies/tiny/stream"
    scope = {"type": "websocket", "path": path, "headers": headers, "query_string": b"", **more}
    service.run(service.app.asgi(scope, receive, send))
    return sent


def test_a_websocket_is_guarded_too(start: Any) -> None:
    service = start(api_key=API)
    (closed,) = websocket(service, [])
    assert (closed["type"], closed["code"]) == ("websocket.close", 1008)
    begin, body = websocket(service, [], extensions={"websocket.http.response": {}})
    assert (begin["type"], begin["status"]) == ("websocket.http.response.start", 401)
    assert (b"www-authenticate", b"Bearer") in begin["headers"]
    assert json.loads(body["body"])["code"] == "unauthorized"
    assert counted(service, "unauthorized") == 2
    allowed = websocket(service, [(b"authorization", BEARER["authorization"].encode())])
    assert allowed[0].get("code") != 1008


@pytest.mark.parametrize(
    ("keys", "needed"),
    [
        ({"api_key": API}, {"/v1/policies", "/metrics", LOAD.replace("tiny", "{model}")}),
        ({"admin_key": ADMIN}, {LOAD.replace("tiny", "{model}")}),
    ],
)
def test_the_document_of_the_interface_says_what_needs_a_key(
    start: Any, keys: dict[str, str], needed: set[str]
) -> None:
    service = start(**keys)
    document = service.get("/openapi.json", headers=BEARER).json()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "key"}
    guarded = {
        path
        for path, operations in document["paths"].items()
        if all(operation["security"] for operation in operations.values())
    }
    assert guarded >= needed
    assert guarded.isdisjoint(HEALTH)
    assert ("/v1/policies" in guarded) == ("api_key" in keys)


def test_what_another_worker_passes_on_was_let_through_by_that_one(
    start: Any, tmp_path: Path
) -> None:
    service = start(peers=Peers(tmp_path, "worker-0.sock"), api_key=API, admin_key=ADMIN)
    front = service.app.asgi
    names = ("worker-0.sock", "worker-1.sock", "public.sock")
    servers: list[Any] = [(str(tmp_path / name), None) for name in names]
    servers += [("127.0.0.1", 8000), ("test", None), None]

    async def come_by(server: Any) -> int:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await front({**scope, "server": server}, receive, send)

        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return (await client.post(LOAD)).status_code

    seen = [service.run(come_by(server)) for server in servers]
    assert seen == [200, 401, 401, 401, 401, 401]


def test_a_single_process_has_no_workers_to_trust(start: Any) -> None:
    service = start(api_key=API)
    front = service.app.asgi

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await front({**scope, "server": None}, receive, send)

    async def ask() -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
            return (await client.post("http://test" + LOAD)).status_code

    assert service.run(ask()) == 401


def test_workers_have_the_keys_and_tell_each_other_without_them(
    launch_once: Any, tmp_path: Path
) -> None:
    path = tmp_path / "key"
    path.write_text(API + "\n")
    server = launch_once(SLIMQ_WORKERS="2", SLIMQ_API_KEY_FILE=str(path), SLIMQ_ADMIN_KEY=ADMIN)
    path.unlink()
    until(lambda: server.log.read_text().count("worker ready") >= 2, 30)
    act = server.url + "/v1/policies/tiny/act"
    for _ in range(8):  # each on a connection of its own, so that both answer some
        assert httpx.post(act, **ACT, headers=BEARER).status_code == 200
        assert httpx.post(act, **ACT, headers={"x-api-key": "**********"}).status_code == 401
    answer = httpx.post(server.url + LOAD, headers=BEARER_ADMIN, timeout=60)
    assert answer.status_code == 200, answer.text
    assert httpx.post(server.url + LOAD, headers=BEARER).status_code == 403
    loaded = 'slimq_variant_loaded{policy="tiny",variant="other"} 2'
    assert loaded in httpx.get(server.url + "/metrics", headers=BEARER).text
    server.close()
    text = server.log.read_text()
    assert API not in text
    assert ADMIN not in text


def test_a_long_body_without_a_key_is_not_read(launch_once: Any) -> None:
    guarded = launch_once(SLIMQ_API_KEY=API)
    path = "/v1/policies/tiny/act"
    answer = httpx.post(guarded.url + path, content=bytes(3_000_000))
    assert answer.status_code == 401
    assert answer.headers["connection"] == "close"
    with httpx.Client(base_url=guarded.url, headers=BEARER) as client:
        assert client.post(path, **ACT).status_code == 200
        assert client.post(path, **ACT, headers={"authorization": ""}).status_code == 401
    guarded.close()
    assert API not in guarded.log.read_text()


def test_keys_come_from_files_without_the_space_around_them(tmp_path: Path) -> None:
    api, admin = tmp_path / "api", tmp_path / "admin"
    api.write_text(f"  {API}\n")
    admin.write_bytes(ADMIN.encode() + b"\r\n\n")
    settings = read_settings(api_key_file=api, admin_key_file=admin)
    keys = Keys(API.encode(), ADMIN.encode())
    assert read_keys(settings) == keys
    assert not read_keys(Settings())
    for path in (api, admin):
        path.unlink()
    with pytest.raises(ConfigError):
        read_keys(settings)


def test_keys_of_files_are_read_once_and_revealed_to_workers_alone(tmp_path: Path) -> None:
    path = tmp_path / "api"
    path.write_text(API)
    settings = with_keys(read_settings(api_key_file=path, admin_key=ADMIN))
    path.unlink()
    assert API not in repr(settings)
    assert API not in settings.model_dump_json()
    told = Settings.model_validate_json(settings.reveal())
    assert told == settings
    assert read_keys(told) == Keys(API.encode(), ADMIN.encode())
    assert with_keys(Settings()) == Settings()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected 1 to 1024 visible ASCII characters"),
        (b" \n", "expected 1 to 1024 visible ASCII characters"),
        (b"se cret", "expected 1 to 1024 visible ASCII characters"),
        (b"s\xc3\xa9cret", "expected 1 to 1024 visible ASCII characters"),
        (b"secret" * 1000, "expected 1 to 1024 visible ASCII characters"),
        (None, "No such file"),
    ],
)
def test_a_file_without_a_key_is_refused_by_name_and_not_repeated(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="SLIMQ_ADMIN_KEY_FILE: .*key: .*" + message) as caught:
        read_keys(read_settings(admin_key_file=path))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", ["", " ", "sec ret", "sécret", "secret\n", "secret" * 1000])
def test_a_setting_that_is_no_key_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("SLIMQ_API_KEY", value)
    with pytest.raises(ConfigError, match=r"SLIMQ_API_KEY: .*visible ASCII") as caught:
        read_settings()
    for error in (caught.value, caught.value.__cause__):
        assert "cret" not in f"{error} {error!r}"


def test_a_key_and_a_file_with_it_are_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMQ_API_KEY", API)
    monkeypatch.setenv("SLIMQ_API_KEY_FILE", "/somewhere")
    with pytest.raises(ConfigError, match=r"SLIMQ_API_KEY_FILE: .*or SLIMQ_API_KEY") as caught:
        read_settings()
    assert API not in f"{caught.value} {caught.value.__cause__}"


def test_no_key_is_shown_or_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(api_key=API, admin_key=ADMIN)
    keys = read_keys(settings)
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    configure_logs(logging.INFO)
    logging.getLogger("uvicorn").info("%s %s", settings, keys)
    shown = [repr(settings), str(settings), repr(keys), repr(settings.model_dump())]
    shown += [settings.model_dump_json(), stream.getvalue()]
    assert stream.getvalue()
    for text in shown:
        assert API not in text
        assert ADMIN not in text
