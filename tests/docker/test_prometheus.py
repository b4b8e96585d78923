"""The rules against their documentation, their own tests, and the service's metrics and codes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from slimq_service.metrics.codes import ERROR_CODES, HTTP_ERROR_CODES
from slimq_service.metrics.variant_metrics import HTTP_BUCKETS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker" / "prometheus"
REJECTED = {"overloaded", "deadline", "closing", "too-many-connections"}
"""What the service refuses to protect itself."""
FAILED = {"repository", "service", "non-finite-q-values", "internal"}
"""What it could not do."""
CLIENTS = {
    *("invalid-input", "invalid-observation", "over-limit", "malformed-body"),
    *("unsupported-media-type", "conflict", "body-timeout", "not-found", "layout-changed"),
    *("client-gone", "no-such-path", "method-not-allowed", "upgrade-required"),
    *("unauthorized", "forbidden", "head-over-limit", "head-timeout", "malformed-request"),
    *("unsupported-transfer-coding", "range-not-satisfiable"),
    "cross-site",
}
"""What is a client's doing, and nobody is told of."""


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules(name: str) -> list[Any]:
    return [rule for group in load(FOLDER / "rules" / name)["groups"] for rule in group["rules"]]


def all_alerts() -> list[Any]:
    """Those of every deployment, and those of the one with replicas."""
    added = [rule for rule in rules("../replicas/rules/replicas.yml") if "alert" in rule]
    return [*rules("alerts.yml"), *added]


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
    alerts = all_alerts()
    assert {rule["alert"] for rule in alerts} == set(headings)
    for rule in alerts:
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        assert rule["annotations"]["runbook"] == f"docs/monitoring.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in {"critical", "warning"}


def test_every_alert_is_seen_to_fire_and_not_to_fire() -> None:
    seen: dict[str, set[bool]] = {}
    for name in ("alerts.yml", "replicas.yml", "proxy.yml"):
        for test in load(FOLDER / "tests" / name)["tests"]:
            for case in test["alert_rule_test"]:
                seen.setdefault(case["alertname"], set()).add(bool(case.get("exp_alerts")))
    assert seen == {rule["alert"]: {True, False} for rule in all_alerts()}


def matched(name: str, metric: str) -> list[set[str]]:
    """The codes of every selector of a metric in the expression of a record or an alert."""
    (rule,) = [
        rule
        for file in ("recording.yml", "alerts.yml")
        for rule in rules(file)
        if name in (rule.get("record"), rule.get("alert"))
    ]
    found = re.findall(metric + r'\{code=~?"([^"]+)"', rule["expr"])
    return [set(codes.split("|")) for codes in found]


def test_every_code_of_the_service_is_its_own_or_the_clients() -> None:
    page = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([a-z-]+)` \| [45]\d\d \|", page, re.MULTILINE))
    assert documented | {*ERROR_CODES, *HTTP_ERROR_CODES} == REJECTED | FAILED | CLIENTS
    assert len(REJECTED) + len(FAILED) + len(CLIENTS) == len(REJECTED | FAILED | CLIENTS)


def test_every_code_of_the_services_own_is_an_alert() -> None:
    ours = (REJECTED | FAILED) & {*ERROR_CODES}
    for name in ("variant:slimq_failures:ratio5m", "SlimqErrorRatioHigh"):
        assert matched(name, "slimq_errors_total") == [ours]
    assert matched("SlimqOtherRequestsFailing", "slimq_http_errors_total") == [FAILED]
    rejected = matched("code:slimq_rejected:rate1m", "slimq_http_errors_total")
    assert set.union(*rejected) == REJECTED
    assert matched("code:slimq_rejected:rate1m", "slimq_errors_total") == [REJECTED & ours]


def test_every_code_that_is_matched_is_one_of_the_services_own() -> None:
    found = {
        code
        for name in ("recording.yml", "alerts.yml")
        for rule in rules(name)
        for codes in re.findall(r'code=~?"([^"]+)"', rule["expr"])
        for code in codes.split("|")
    }
    assert found == REJECTED | FAILED
    assert found <= {*ERROR_CODES, *HTTP_ERROR_CODES}


def test_the_target_of_the_p99_is_a_bound_of_its_buckets() -> None:
    (rule,) = [r for r in rules("recording.yml") if r["record"].endswith(":p99_target")]
    seconds = float(rule["expr"].removeprefix("vector(").removesuffix(")"))
    assert seconds in HTTP_BUCKETS


def test_the_rules_are_those_that_the_configuration_reads() -> None:
    config = load(FOLDER / "prometheus.yml")
    pattern, replicas, local = config["rule_files"]
    assert {path.name for path in FOLDER.glob(pattern)} == {"recording.yml", "alerts.yml"}
    assert not list(FOLDER.glob(local))
    assert [job["job_name"] for job in config["scrape_configs"]] == ["slimq", "proxy"]
    (discovery,) = config["scrape_configs"][1]["file_sd_configs"]
    mount = "{type: bind, source: ./docker/prometheus/replicas, target: /etc/prometheus-replicas,"
    assert mount in (ROOT / "docker-compose.replicas.yml").read_text(encoding="utf-8")
    for name in (replicas, *discovery["files"]):
        inside = name.removeprefix("/etc/prometheus-replicas/")
        assert list((FOLDER / "replicas").glob(inside)), name


def test_as_many_replicas_are_to_answer_as_there_are_by_default() -> None:
    (record,) = [rule for rule in rules("../replicas/rules/replicas.yml") if "record" in rule]
    text = (ROOT / "docker-compose.replicas.yml").read_text(encoding="utf-8")
    (count,) = re.findall(r"replicas: \$\{SLIMQ_REPLICAS:-(\d+)\}", text)
    assert (record["record"], record["expr"]) == ("slimq:up:count_target", f"vector({count})")
