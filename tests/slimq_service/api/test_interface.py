"""The page of the interface, as bytes and in a real browser."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from places import ROOT
from slimq_service.api.interface import FILES, SCRIPT, START, STYLE, accepts_gzip

PYTHON = ROOT / ".venv-clients" / "bin" / "python"
VISIT = Path(__file__).parent / "browser" / "visit.py"
PUBLISHED = {
    SCRIPT: "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    STYLE: "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
}
"""SHA-256 of the files in version 5.35.0 of npm's swagger-ui-dist."""
LOADED = 'slimq_variant_loaded{policy="tiny",variant="fp32"} 1'

browser = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (PYTHON.exists() and shutil.which("chromium")) and "CI" not in os.environ,
        reason="`make slow` sets up the clients, `.ci/need chromium` the browser",
    ),
]


@pytest.mark.parametrize("name", [SCRIPT, STYLE])
def test_files_are_those_that_were_published(name: str) -> None:
    content = gzip.decompress((FILES / f"{name}.gz").read_bytes())
    assert hashlib.sha256(content).hexdigest() == PUBLISHED[name]


def test_their_licences_come_with_them() -> None:
    for name in ("LICENSE", "NOTICE", f"{SCRIPT}.LICENSE.txt"):
        assert (FILES / name).read_text(encoding="utf-8")


def test_the_page_loads_nothing_from_other_sites(server: Any) -> None:
    answer = httpx.get(server.url + "/docs")
    assert answer.status_code == 200
    assert "//" not in answer.text
    assert "<script>" not in answer.text
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    linked = re.findall(r'(?:src|href)="(docs/[^"]*)"', answer.text)
    assert [link.partition("?")[0] for link in linked] == [
        f"docs/{name}" for name in (STYLE, SCRIPT, START)
    ]
    for link in linked:
        file = httpx.get(f"{server.url}/{link}")
        assert file.status_code == 200
        assert file.headers["content-type"].startswith(("text/javascript", "text/css"))
        assert file.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", [SCRIPT, STYLE])
def test_files_are_sent_compressed_where_they_may_be(server: Any, name: str) -> None:
    url = f"{server.url}/docs/{name}"
    for accepted, encoding in (("gzip", "gzip"), ("br", None), ("identity", None)):
        answer = httpx.get(url, headers={"accept-encoding": accepted})
        assert answer.headers.get("content-encoding") == encoding
        assert answer.headers["vary"] == "accept-encoding"
        assert hashlib.sha256(answer.content).hexdigest() == PUBLISHED[name]


@pytest.mark.parametrize("name", ["none.js", "LICENSE", "..%2finterface.py", "%2e%2e/app.py"])
def test_there_is_no_other_file(server: Any, name: str) -> None:
    assert httpx.get(f"{server.url}/docs/{name}").status_code == 404


@pytest.mark.parametrize(
    ("header", "accepts"),
    [
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("*", True),
        ("br", False),
        ("", False),
        ("gzip;q=0", False),
        ("gzip; q=0.00, br", False),
    ],
)
def test_what_an_accept_encoding_means(header: str, accepts: bool) -> None:
    assert accepts_gzip(header) is accepts


def visit(*arguments: str) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [PYTHON, VISIT, *arguments], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


class TestInABrowser:
    pytestmark = browser

    def test_the_page_is_drawn_and_works_without_another_host(self, server: Any) -> None:
        found = visit("docs", server.url)
        paths = httpx.get(server.url + "/openapi.json").json()["paths"]
        assert found["operations"] == sum(len(operations) for operations in paths.values())
        assert found["status"] == "200"
        assert found["asked"] == f"{server.url}/v1/policies/tiny/act"
        assert found["font"] == "24px", "the style sheet was applied"
        assert all(url.startswith((server.url + "/", "data:")) for url in found["requests"])
        assert found["console"] == []

    def test_the_page_works_behind_a_prefix(self, launch_once: Any) -> None:
        server = launch_once(SLIMQ_ROOT_PATH="/slimq")
        found = visit("docs", server.url + "/slimq")
        assert found["status"] == "200"
        assert found["asked"] == f"{server.url}/slimq/v1/policies/tiny/act"
        start = server.url + "/slimq/"
        assert all(url.startswith((start, "data:")) for url in found["requests"])
        assert found["console"] == []

    def test_a_page_of_another_site_changes_nothing(self, server: Any, launch_once: Any) -> None:
        other = launch_once().url.replace("127.0.0.1", "localhost")
        assert httpx.post(server.url + "/v2/repository/models/tiny/load").status_code == 200
        found = visit("other", server.url, other)
        assert found["unload"]["type"] == "opaque", "it was sent"
        assert LOADED in httpx.get(server.url + "/metrics").text
        assert (found["act"], found["wrong"], found["stream"]) == (None, None, None)

    def test_a_page_that_may_uses_the_service(self, launch_once: Any) -> None:
        other = launch_once().url.replace("127.0.0.1", "localhost")
        server = launch_once(SLIMQ_CORS_ORIGINS=other)
        found = visit("other", server.url, other)
        assert found["act"]["status"] == 200
        assert found["act"]["id"]
        assert "actions" in found["act"]["body"]
        assert (found["wrong"]["status"], found["wrong"]["body"]["code"]) == (404, "not-found")
        assert "action" in found["stream"]
        assert LOADED.replace(" 1", " 0") not in httpx.get(server.url + "/metrics").text
