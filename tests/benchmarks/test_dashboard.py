"""Every query of the dashboards and rules against a real Prometheus, after real load."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml

import dashboard
import dashboard_queries as queries
from condition_reports import publish_report
from dashboard_trial import (
    CONFIGURATION,
    ROOT,
    Sent,
    TrialError,
    build_repository,
    configuration_for,
    prometheus,
    send,
    serving,
    wait_until_settled,
)
from slimq.core.repository import Repository
from waiting import until

POLICY, SHADOW = "pong", "int8"
DOTTED = "tiny.2"
"""What this repository calls the variant tiny: Grafana escapes the dot wherever it inserts it."""
VARIANTS = ("fp32", "int8", DOTTED)
IDLE = "fastest"
"""One more, which gets no requests."""
LOAD_SECONDS = 45.0
VARIANTS_COMPARED, SERVICE_HEALTH = "variants-compared.json", "service-health.json"

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None and "CI" not in os.environ,
    reason="apt-get install prometheus",
)


def test_the_trial_scrapes_its_own_service_and_nothing_else() -> None:
    configuration = yaml.safe_load(configuration_for("http://127.0.0.1:4711"))
    (job,) = configuration["scrape_configs"]
    assert job == {"job_name": "slimq", "static_configs": [{"targets": ["127.0.0.1:4711"]}]}
    assert configuration["rule_files"][0] == "rules/*.yml"


@dataclass(frozen=True)
class Trial:
    source: str
    instance: str
    text: str
    sent: Mapping[str, Sent]
    began: float
    ended: float


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    folder = tmp_path_factory.mktemp("trial")
    shipped = Repository(ROOT / "policies")
    taken = [*(variant for variant in VARIANTS if variant != DOTTED), IDLE]
    repository = build_repository(shipped, folder / "policies", POLICY, taken, SHADOW)
    copy_as(DOTTED, shipped.variant_folder(POLICY, "tiny"), repository)
    for variant in (*VARIANTS, IDLE):
        publish_report(repository.root, variant, {"noise": 1.0}, policy=POLICY)
    with serving(repository, folder) as url, prometheus(url, folder) as source:
        wait_for_scrapes(source)
        began = time.time()
        sent = send(url, repository, POLICY, VARIANTS, LOAD_SECONDS)
        wait_until_settled(source)
        with urlopen(url + "/metrics", timeout=30) as answer:
            text = answer.read().decode()
        yield Trial(source, url.removeprefix("http://"), text, sent, began, time.time())


def copy_as(name: str, variant: Path, repository: Repository) -> None:
    """Puts a variant's folder into a repository under another name."""
    home = repository.variant_folder(POLICY, name)
    shutil.copytree(variant, home)
    manifest = json.loads((home / "variant.json").read_text(encoding="utf-8"))
    (home / "variant.json").write_text(json.dumps(manifest | {"name": name}), encoding="utf-8")


def wait_for_scrapes(source: str) -> None:
    """Until the service was scraped twice, so that its counters are known to rest."""
    scraped = "count_over_time(slimq_queue_depth[5m]) > 1"
    until(lambda: queries.ask_now(source, scraped), 60, "a second scrape", every=0.5)


def answers(trial: Trial, asked: queries.Asked) -> list[queries.Series]:
    """The series that have a number at some time."""
    if asked.instant:
        found = queries.ask_now(trial.source, asked.expression, trial.ended)
    else:
        found = queries.ask(
            trial.source, asked.expression, start=trial.began, end=trial.ended, step=5
        )
    return [series for series in found if any(map(math.isfinite, series.values))]


@pytest.mark.slow
@needs_prometheus
def test_every_query_of_the_comparison_has_data_for_every_variant(trial: Trial) -> None:
    chosen = {"policy": POLICY, "variant": VARIANTS}
    asked = queries.read(VARIANTS_COMPARED)
    assert len(asked) > 25
    for query in asked:
        seen: set[str] = set()
        for one in queries.expand(query, chosen):
            for series in answers(trial, one):
                labels = series.labels
                seen |= {one.repeated or labels["variant"], labels.get("shadow", "")}
        assert seen - {""} == set(VARIANTS), f"{query.panel}: {query.expression}"


@pytest.mark.slow
@needs_prometheus
def test_every_query_of_the_services_health_has_data(trial: Trial) -> None:
    asked = queries.read(SERVICE_HEALTH)
    assert len(asked) > 15
    for query in asked:
        (one,) = queries.expand(query, {"instance": [trial.instance]})
        assert answers(trial, one), f"{query.panel}: {one.expression}"


@pytest.mark.slow
@needs_prometheus
def test_variables_have_the_values_that_are_chosen_from(trial: Trial) -> None:
    policy, _ = queries.variables(VARIANTS_COMPARED)
    (instance,) = queries.variables(SERVICE_HEALTH)
    times = (trial.began, trial.ended)
    assert queries.offered(trial.source, policy, {}, *times) == [POLICY]
    assert queries.offered(trial.source, instance, {}, *times) == [trial.instance]


@pytest.mark.slow
@needs_prometheus
@pytest.mark.parametrize(
    ("above", "loaded", "expected"),
    [
        ("0", True, VARIANTS),
        ("-1", True, (*VARIANTS, IDLE)),
        ("0", False, (*VARIANTS, IDLE)),
        ("-1", False, (*VARIANTS, IDLE)),
    ],
)
def test_variants_under_load_are_offered_and_all_where_there_is_no_load(
    trial: Trial, above: str, loaded: bool, expected: tuple[str, ...]
) -> None:
    _, variant = queries.variables(VARIANTS_COMPARED)
    start, end = (trial.began, trial.ended) if loaded else (trial.began - 60, trial.began)
    chosen = {"policy": POLICY, "above": above}
    assert queries.offered(trial.source, variant, chosen, start, end) == sorted(expected)


@pytest.mark.slow
@needs_prometheus
def test_prometheus_has_counted_what_the_clients_saw(trial: Trial) -> None:
    for variant, seen in trial.sent.items():
        labels = f'{{policy="{POLICY}",variant="{variant}"}}'
        assert set(seen.statuses) == {200, 422}
        for name, expected in (
            ("slimq_requests_total" + labels, seen.statuses.total()),
            ("slimq_observations_total" + labels, seen.observations),
            (f"sum(slimq_actions_total{labels})", seen.observations),
            (f"sum(slimq_errors_total{labels})", seen.statuses[422]),
            (f"slimq_parse_seconds_count{labels}", seen.statuses[200]),
            (f"slimq_response_seconds_count{labels}", seen.statuses[200]),
        ):
            (series,) = queries.ask_now(trial.source, name, trial.ended)
            assert series.values == [expected], name


@pytest.mark.slow
@needs_prometheus
def test_every_rule_is_evaluated_and_every_record_of_variants_is_there_for_each(
    trial: Trial,
) -> None:
    with urlopen(trial.source + "/api/v1/rules", timeout=30) as answer:
        groups = json.load(answer)["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}
    records = [rule["name"] for rule in rules if rule["type"] == "recording"]
    assert len(records) > 10
    for name in records:
        found = queries.ask_now(trial.source, name, trial.ended)
        assert found, name
        if name.startswith("variant:"):
            seen = {label for s in found for label in (s.labels["variant"], s.labels.get("shadow"))}
            assert seen >= set(VARIANTS), name


@pytest.mark.slow
@needs_prometheus
def test_every_metric_that_is_asked_for_is_exposed(trial: Trial) -> None:
    boards = [*queries.read(VARIANTS_COMPARED), *queries.read(SERVICE_HEALTH)]
    asked = [query.expression for query in boards]
    files = (CONFIGURATION / "rules").glob("*.yml")
    text = "\n".join([*asked, *(path.read_text(encoding="utf-8") for path in files)])
    names = set(re.findall(r"(?<![:\w])(?:slimq|process)_[a-z_]+(?=[\[{,) ])", text))
    exposed = {re.split(r"[{ ]", line)[0] for line in trial.text.splitlines()}
    assert len(names) > 20
    assert names <= exposed | {"slimq_worker_restarts_total"}, "those of workers need several"


@pytest.mark.slow
@needs_prometheus
def test_the_picture_is_drawn_from_it(trial: Trial, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    chosen = {"policy": POLICY, "variant": VARIANTS}
    dashboard.draw(trial.source, chosen, trial.began, trial.ended, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 30_000


def test_without_prometheus_the_trial_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with (
        pytest.raises(TrialError, match="apt-get install prometheus"),
        prometheus("http://127.0.0.1:1", tmp_path),
    ):
        pass


def test_variables_are_inserted_as_grafana_does() -> None:
    asked = queries.Asked(
        "Of $variant", "heatmap", "s", 'x{p="$policy",v=~"$variant"}[$__rate_interval]', "", False
    )
    chosen = {"policy": "pong", "variant": ["int8", "a.b-c"]}
    (one,) = queries.expand(asked, chosen)
    assert one.expression == 'x{p="pong",v=~"(int8|a\\\\.b-c)"}[20s]'
    repeated = queries.Asked("Of $variant", "heatmap", "s", '"$variant"', "", False, "", "variant")
    found = [(q.panel, q.expression) for q in queries.expand(repeated, chosen)]
    assert found == [("Of int8", '"int8"'), ("Of a.b-c", r'"a\\.b-c"')]


def test_the_comparison_opens_on_what_the_stacks_load_is_sent_to() -> None:
    policy, variant = queries.variables(VARIANTS_COMPARED)
    assert (policy.name, policy.first) == ("policy", POLICY)
    assert (variant.name, variant.first) == ("variant", ["$__all"])
    document = json.loads((queries.FOLDER / VARIANTS_COMPARED).read_text(encoding="utf-8"))
    (above,) = [each for each in document["templating"]["list"] if each["type"] == "custom"]
    assert above["query"] == "with requests : 0,all : -1"
    assert above["current"]["value"] == "0"


def test_a_variable_of_an_unknown_kind_is_refused() -> None:
    variable = queries.Variable("policy", "metrics(slimq_.*)", "", "")
    with pytest.raises(ValueError, match="policy: unknown kind"):
        queries.offered("http://127.0.0.1:1", variable, {}, 0, 60)


@needs_prometheus
@pytest.mark.parametrize(
    ("board", "panel", "expected"),
    [
        (VARIANTS_COMPARED, "Memory per process", {'{variant="int8"}': 100, '{variant="tiny"}': 0}),
        (SERVICE_HEALTH, "Variants in memory", {"{}": 1}),
    ],
)
def test_replicas_and_workers_count_a_variant_once(
    board: str, panel: str, expected: dict[str, float], tmp_path: Path
) -> None:
    (asked,) = [each for each in queries.read(board) if each.panel == panel]
    chosen = {"policy": "pong", "variant": ["int8", "tiny"], "instance": ["a", "b"]}
    (one,) = queries.expand(asked, chosen)
    known = {("a", "int8"): (2, 210), ("b", "int8"): (1, 90), ("a", "tiny"): (0, 0)}
    series = []
    for (instance, variant), (processes, taken) in known.items():
        labels = f'{{instance="{instance}",policy="pong",variant="{variant}"}}'
        series += [
            {"series": f"slimq_variant_loaded{labels}", "values": str(processes)},
            {"series": f"slimq_variant_memory_bytes{labels}", "values": str(taken)},
        ]
    samples = [{"labels": labels, "value": value} for labels, value in expected.items()]
    wanted = {"expr": one.expression, "eval_time": "0s", "exp_samples": samples}
    test = {"interval": "5s", "input_series": series, "promql_expr_test": [wanted]}
    path = tmp_path / "panel.yml"
    path.write_text(yaml.safe_dump({"tests": [test]}), encoding="utf-8")
    done = subprocess.run(
        ["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_names_of_series_are_what_the_legend_says() -> None:
    series = queries.Series({"variant": "int8", "code": "deadline"}, [], [])
    assert queries.name_of(series, "{{variant}} {{code}}{{none}}") == "int8 deadline"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(1.0, "bool_yes_no", "yes"), (0.0, "bool_yes_no", "no"), (-0.031, "percentunit", "-3.1%")],
)
def test_values_are_written_as_grafana_does(value: float, unit: str, text: str) -> None:
    assert dashboard.show(value, unit) == text


def test_the_committed_picture_is_small() -> None:
    path = ROOT / "docs" / "images" / "variants-compared.png"
    assert 30_000 < path.stat().st_size < 200_000
