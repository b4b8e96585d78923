"""docs/service.md against the code: endpoints, settings, error codes."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from places import ROOT
from slimq.core import errors
from slimq_service.metrics.codes import HTTP_ERROR_CODES
from slimq_service.settings import PREFIX, Settings

DOCS = ROOT / "docs"
PAGE = DOCS / "service.md"


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def default_of(name: str) -> str:
    default = Settings.model_fields[name].default
    if name == "inference_threads":
        return "processors / workers"
    if default is None or default == ():
        return "none"
    if isinstance(default, tuple):
        return ",".join(default)
    if isinstance(default, float):
        return f"{default:g}"
    return str(default)


def settings_table() -> str:
    rows = [
        f"| `{PREFIX}{name.upper()}` | {default_of(name)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| setting | default | |", "|---|---|---|", *rows])


def test_the_settings_are_those_of_the_code(page: str) -> None:
    section = page.split("<!-- settings -->")[1].split("<!-- /settings -->")[0].strip()
    assert section == settings_table(), "docs/service.md wants this table:\n" + settings_table()


def test_every_endpoint_is_there_and_no_other(page: str, service: Any) -> None:
    text = page + (DOCS / "serving.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`(?:(?:GET|POST|WS) )?(/[a-z0-9/{}_.]*)`", text))
    paths = set(service.get("/openapi.json").json()["paths"])
    own = {path for path in paths if not path.startswith("/v2")}
    assert own <= documented
    for path in documented:
        if path.startswith("/v1/"):
            assert path in paths or path.endswith("/stream"), path


def test_every_error_code_is_there_with_its_status(page: str) -> None:
    table = dict(re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", page, flags=re.MULTILINE))
    statuses = {
        kind.code: kind.status
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.SlimqError)
    }
    for code in HTTP_ERROR_CODES:
        if code == "client-gone":  # nobody sees it but the metrics
            continue
        assert code in table, code
        if code in statuses:
            assert int(table[code]) == statuses[code], code
    assert set(table) <= {*HTTP_ERROR_CODES, "service"}
