"""The rules against their documentation, their own tests, and the service's metrics and codes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from slimq_service.metrics import ERROR_CODES, HTTP_BUCKETS, WIRE_CODES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker" / "prometheus"


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules(name: str) -> list[Any]:
    return [rule for group in load(FOLDER / "rules" / name)["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")


def test_every_record_is_documented_and_no_other(page: str) -> None:
    documented = set(re.findall(r"^\| `([a-z]+:[a-z0-9_:]+)` \|", page, re.MULTILINE))
    assert documented == {rule["record"] for rule in rules("recording.yml")}


def test_every_record_has_a_test() -> None:
    text = (FOLDER / "tests" / "recording.yml").read_text()
    tested = set(re.findall(r"- expr: .*?([a-z]+:[a-z0-9_:]+)", text))
    assert tested == {rule["record"] for rule in rules("recording.yml")}


def test_every_alert_has_a_runbook(page: str) -> None:
    headings = re.findall(r"^### (\w+)$", page, re.MULTILINE)
    alerts = rules("alerts.yml")
    assert {rule["alert"] for rule in alerts} == set(headings)
    for rule in alerts:
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        assert rule["annotations"]["runbook"] == f"docs/monitoring.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in {"critical", "warning"}


def test_every_alert_is_seen_to_fire_and_not_to_fire() -> None:
    seen: dict[str, set[bool]] = {}
    for name in ("alerts.yml", "replicas.yml"):
        for test in load(FOLDER / "tests" / name)["tests"]:
            for case in test["alert_rule_test"]:
                seen.setdefault(case["alertname"], set()).add(bool(case.get("exp_alerts")))
    assert seen == {rule["alert"]: {True, False} for rule in rules("alerts.yml")}


def test_every_code_that_is_matched_is_one_of_the_service() -> None:
    found = {
        code
        for name in ("recording.yml", "alerts.yml")
        for rule in rules(name)
        for codes in re.findall(r'code=~?"([^"]+)"', rule["expr"])
        for code in codes.split("|")
    }
    assert found
    assert found <= {*ERROR_CODES, *WIRE_CODES}


def test_the_target_of_the_p99_is_a_bound_of_its_buckets() -> None:
    (rule,) = [r for r in rules("recording.yml") if r["record"].endswith(":p99_target")]
    seconds = float(rule["expr"].removeprefix("vector(").removesuffix(")"))
    assert seconds in HTTP_BUCKETS


def test_the_rules_are_those_that_the_configuration_reads() -> None:
    config = load(FOLDER / "prometheus.yml")
    (pattern,) = config["rule_files"]
    assert {path.name for path in FOLDER.glob(pattern)} == {"recording.yml", "alerts.yml"}
    assert [job["job_name"] for job in config["scrape_configs"]] == ["slimq"]
