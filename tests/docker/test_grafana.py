"""The committed dashboards and their provisioning against the code that writes them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker" / "grafana"
COLUMNS = 24


@pytest.fixture(scope="module")
def written() -> Any:
    """What `make_dashboards` would write, by file name."""
    from make_dashboards import dashboards

    return dashboards()


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    return {path.name: json.loads(path.read_text()) for path in FOLDER.glob("dashboards/*.json")}


def test_the_committed_dashboards_are_what_the_code_writes(written: Any) -> None:
    found = {path.name: path.read_text() for path in (FOLDER / "dashboards").iterdir()}
    assert found == written, "run python docker/grafana/make_dashboards.py"


def test_every_data_source_is_the_provisioned_one(committed: dict[str, Any]) -> None:
    text = (FOLDER / "provisioning" / "datasources" / "prometheus.yml").read_text()
    (source,) = yaml.safe_load(text)["datasources"]
    expected = {"type": source["type"], "uid": source["uid"]}
    for board in committed.values():
        assert board["panels"]
        assert board["templating"]["list"]
        asking = [each for each in board["templating"]["list"] if each["type"] != "custom"]
        for part in (*board["panels"], *asking):
            assert part["datasource"] == expected


def test_rates_are_taken_over_the_scrapes_that_there_are() -> None:
    text = (FOLDER / "provisioning" / "datasources" / "prometheus.yml").read_text()
    (source,) = yaml.safe_load(text)["datasources"]
    config = yaml.safe_load((ROOT / "docker" / "prometheus" / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]


def test_panels_have_numbers_of_their_own_and_lie_side_by_side(committed: dict[str, Any]) -> None:
    for board in committed.values():
        numbers = [panel["id"] for panel in board["panels"]]
        assert numbers == list(range(1, len(numbers) + 1))
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            place = panel["gridPos"]
            columns = range(place["x"], place["x"] + place["w"])
            assert columns.stop <= COLUMNS, panel["title"]
            cells = {
                (column, row)
                for column in columns
                for row in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, panel["title"]
            taken |= cells


def test_every_metric_that_is_queried_is_documented(committed: dict[str, Any]) -> None:
    metrics = set(
        re.findall(r"^\| `([a-z_]+)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    )
    rules = yaml.safe_load((ROOT / "docker/prometheus/rules/recording.yml").read_text())
    records = {rule["record"] for group in rules["groups"] for rule in group["rules"]}
    asked = {
        name
        for board in committed.values()
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"[a-z_0-9:]*(?:slimq|process)_[a-z_0-9:]+", target["expr"])
    }
    assert len(asked) > 20
    bare = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked if ":" not in name}
    assert bare <= metrics
    assert {name for name in asked if ":" in name} <= records


def test_rejected_requests_come_from_both_counters(committed: dict[str, Any]) -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    (section,) = re.findall(r"^## Rejected$(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    codes = set(re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE))
    (panel,) = [
        panel
        for board in committed.values()
        for panel in board["panels"]
        if panel["title"] == "Rejected per second"
    ]
    shown = {
        metric: set(matched.split("|"))
        for target in panel["targets"]
        for metric, matched in re.findall(r'(slimq_\w+){.*code=~"([^"]+)"', target["expr"])
    }
    assert shown["slimq_http_errors_total"] == codes
    assert shown["slimq_errors_total"] == codes - {"too-many-connections"}


def test_panels_of_quantiles_state_their_accuracy(committed: dict[str, Any]) -> None:
    quantiles = [
        panel
        for board in committed.values()
        for panel in board["panels"]
        if any(re.search(r"histogram_quantile|:p\d\d_", t["expr"]) for t in panel["targets"])
    ]
    assert len(quantiles) > 5
    for panel in quantiles:
        assert "a factor of 2" in panel["description"], panel["title"]


def test_every_panel_has_a_description(committed: dict[str, Any]) -> None:
    for board in committed.values():
        for panel in board["panels"]:
            assert panel["description"].endswith("."), panel["title"]


def test_server_side_error_codes_agree_with_the_rule(committed: dict[str, Any]) -> None:
    text = (ROOT / "docker/prometheus/rules/recording.yml").read_text()
    (failures,) = re.findall(r"variant:slimq_failures:ratio5m\n.*?code=~\"(.*?)\"", text, re.DOTALL)
    panels = [panel for board in committed.values() for panel in board["panels"]]
    told = [panel["description"] for panel in panels if panel["title"] == "Errors per second"]
    assert len(told) == len(committed)
    for description in told:
        (codes,) = re.findall(r"Server-side: (.*?)\.", description)
        assert set(codes.split(", ")) == set(failures.split("|"))


def test_dashboards_are_provisioned_from_where_they_are_mounted() -> None:
    text = (FOLDER / "provisioning" / "dashboards" / "slimq.yml").read_text()
    (provider,) = yaml.safe_load(text)["providers"]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"
    assert provider["allowUiUpdates"] is False
