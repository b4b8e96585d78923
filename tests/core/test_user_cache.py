from __future__ import annotations

from pathlib import Path

import pytest

from slimq.core.user_cache import OVERRIDE, user_cache_folder


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/c"}, "/c/slimq"),
        ("linux", {"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/slimq"),
        ("darwin", {"HOME": "/h"}, "/h/Library/Caches/slimq"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/slimq/Cache"),
        ("linux", {OVERRIDE: "/own"}, "/own"),
    ],
)
def test_the_cache_is_where_the_platform_wants_it(
    platform: str, variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (OVERRIDE, "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", platform)
    assert user_cache_folder() == Path(expected)
