"""The time to a page's first action is measured, and what is wrong is said in a line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from places import POLICIES
from slimq.core.repository import Repository
from web import PAGE, main, measure, subjects_of
from web_exports import needs_browser


@pytest.mark.slow
@needs_browser
def test_a_page_is_timed() -> None:
    report, times = measure(Repository(POLICIES), "cartpole", "micro", 1)
    assert (report.policy, report.variant) == ("cartpole", "micro")
    assert len(times) == 1
    assert times[0] > 10


def test_every_policy_is_in_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    table = page.partition("<!-- begin web -->")[2].partition("<!-- end web -->")[0]
    named = set(re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE))
    assert named == set(Repository(POLICIES).policies())


def test_the_smallest_and_the_full_variant_are_opened() -> None:
    repository = Repository(POLICIES)
    (_, smallest), (_, full) = subjects_of(repository, ["pong"], None)
    bytes_of = {v: repository.variant("pong", v).model.bytes for v in repository.variants("pong")}
    assert bytes_of[smallest] == min(bytes_of.values()) < bytes_of[full]
    assert full == repository.policy("pong").baseline_variant
    assert [*subjects_of(repository, ["pong"], "int8")] == [("pong", "int8")]


@pytest.mark.slow
@needs_browser
def test_the_table_of_a_page_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.LIMIT_MS", 0)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin web -->old<!-- end web -->\nafter\n")
    request = ["--policy", "cartpole", "--variant", "micro", "--rounds", "1"]
    with pytest.raises(SystemExit, match=r"more than 0 ms: cartpole/micro: [\d,]+ ms$"):
        main([*request, "--page", str(page), "--write"])
    text = page.read_text()
    assert text.startswith("before\n<!-- begin web -->\n\n| policy | variant |")
    assert re.search(r"^\| `cartpole` \| `micro` \| [\d,]+ \|", text, re.MULTILINE)
    assert text.endswith("<!-- end web -->\nafter\n")
    assert capsys.readouterr().out == ""


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(SystemExit, match=r"web\.py: unknown policy 'non'"):
        main(["--policy", "non"])
