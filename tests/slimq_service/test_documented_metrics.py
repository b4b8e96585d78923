"""docs/metrics.md against what real servers expose, one with a process and one with two workers."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from condition_reports import publish_report
from places import ROOT
from slimq.core.manifest import Shadow
from slimq.core.publish import Publisher
from slimq.core.repository import Repository

ACT = "/v1/policies/cartpole/variants/micro/act"
UNITS = {"_seconds": "seconds", "_bytes": "bytes", "_ratio": "0 to 1"}
PAUSE_SECONDS = 0.05


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def families(process_class: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Every family of the two servers by its name, after an answer that the shadow looked at."""
    folder = tmp_path_factory.mktemp("metrics")
    policies = folder / "policies"
    shutil.copytree(ROOT / "policies" / "cartpole", policies / "cartpole")
    for variant in ("fp32", "micro"):
        publish_report(policies, variant, {}, policy="cartpole")
    Publisher(Repository(policies)).shadow("cartpole", Shadow(variant="int8", share=1))
    processes, found = [], {}
    try:
        for workers in ("1", "2"):
            log = folder / f"{workers}.log"
            processes.append(process_class(policies, log, SLIMQ_WORKERS=workers))
            for family in scrape_shadowed(processes[-1].url):
                found[family.name + ("_total" if family.type == "counter" else "")] = family
        yield found
    finally:
        for process in processes:
            process.process.terminate()  # a supervisor that is killed leaves its folder
            process.process.wait(30)
            process.close()


def scrape_shadowed(url: str) -> list[Any]:
    """What is exposed once every family has a series; a request overloads the shadow."""
    deadline = time.monotonic() + 30
    while True:
        body = {"observations": [[0.0] * 4] * 8}
        assert httpx.post(url + ACT, json=body, timeout=30).status_code == 200
        text = httpx.get(url + "/metrics").text
        if "slimq_shadow_agreements_total{" in text and "slimq_variant_robust{" in text:
            return list(text_string_to_metric_families(text))
        assert time.monotonic() < deadline
        time.sleep(PAUSE_SECONDS)


def row(name: str, family: Any) -> str:
    """The line that the page is to have of a metric."""
    labels = {label for sample in family.samples for label in sample.labels} - {"le"}
    shown = ", ".join(f"`{label}`" for label in sorted(labels))
    unit = next((unit for end, unit in UNITS.items() if end in name), "")
    return f"| `{name}` | {family.type} | {shown} | {unit} | {family.documentation} |"


def test_every_metric_is_on_the_page_and_no_other(page: str, families: Any) -> None:
    expected = {row(name, family) for name, family in families.items()}
    documented = set(
        re.findall(r"^\| `[a-z_]+` \| (?:counter|gauge|histogram) \|.*\|$", page, re.MULTILINE)
    )
    missing, invented = expected - documented, documented - expected
    assert not missing, "docs/metrics.md lacks:\n" + "\n".join(sorted(missing))
    assert not invented, "docs/metrics.md has, and no server:\n" + "\n".join(sorted(invented))


def test_every_histogram_has_its_bounds_on_the_page(page: str, families: Any) -> None:
    expected: dict[str, set[str]] = {}
    for name, family in families.items():
        if family.type == "histogram":
            bounds = dict.fromkeys(s.labels["le"] for s in family.samples if "le" in s.labels)
            expected.setdefault(" ".join(bounds).removesuffix(" +Inf"), set()).add(name)
    documented = {
        bounds: set(re.findall(r"`([a-z_]+)`", names))
        for names, bounds in re.findall(r"^\| (`.*`) \| ([0-9.e\- ]+) \|$", page, re.MULTILINE)
    }
    assert documented == expected


def test_every_error_code_of_the_reasons_for_rejection_is_one(page: str, families: Any) -> None:
    section = page.split("## Rejected")[1].split("\n## ")[0]
    codes = {
        sample.labels["code"]
        for name in ("slimq_errors_total", "slimq_http_errors_total")
        for sample in families[name].samples
    }
    named = set(re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE))
    assert named
    assert named <= codes
