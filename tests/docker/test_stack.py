"""The stack of docker-compose.yml, up for real: built, scraped, loaded, killed, upgraded.

What cannot be had without a hub is replaced: the images of Python, Prometheus and haproxy by ones
with Debian's packages. Grafana's is left out, so that its dashboards are not drawn here.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from engine import FOLDER, ROOT, Engine, Stack
from traffic import Client
from waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.alone]

SCRAPE_SECONDS = 5
VARIANTS = ("fp32", "tiny")
SINGLE = (ROOT / "docker-compose.yml", FOLDER / "override.yml")
REPLICATED = (
    *(ROOT / "docker-compose.yml", ROOT / "docker-compose.replicas.yml"),
    *(FOLDER / "override.yml", FOLDER / "override.replicas.yml"),
)


def ask(stack: Stack, query: str, moment: float | None = None) -> list[dict[str, Any]]:
    """What Prometheus answers to an instant query."""
    parameters = {"query": query, **({} if moment is None else {"time": str(moment)})}
    answer = httpx.get(f"{stack.prometheus}/api/v1/query", params=parameters, trust_env=False)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"]["result"])


def value(stack: Stack, query: str, moment: float | None = None) -> float:
    """The value of a query with one series."""
    (found,) = ask(stack, query, moment)
    return float(found["value"][1])


def wait_for(what: str, holds: Callable[[], object], seconds: float = 60.0) -> None:
    until(holds, seconds, what, every=0.5)


def wait_for_answers(clients: Sequence[Client], more: int) -> None:
    """Until each client has seen so many more answers."""
    wanted = [len(client.seen.rows) + more for client in clients]

    def seen() -> bool:
        return all(len(c.seen.rows) >= count for c, count in zip(clients, wanted, strict=True))

    wait_for("traffic", seen)


def is_ready(stack: Stack) -> bool:
    try:
        return httpx.get(f"{stack.url}/readyz", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def wait_until_scraped(stack: Stack, instances: int) -> None:
    query = 'up{job="slimq"} == 1'
    wait_for(f"{instances} scraped", lambda: len(ask(stack, query)) == instances)


def wait_for_scrapes(stack: Stack) -> None:
    """Until every instance was scraped after now."""
    now = time.time()
    query = 'min(timestamp(up{job="slimq"}))'
    wait_for("another scrape of all", lambda: value(stack, query) > now)


def run_load(stack: Stack, requests: int, interval: float, bad_every: int) -> dict[str, Client]:
    clients = {v: Client(stack.url, v, 96, interval, requests, bad_every) for v in VARIANTS}
    for client in clients.values():
        client.start()
    for client in clients.values():
        client.join()
    return clients


def logs_of(engine: Engine, stack: Stack, service: str) -> str:
    """The end of what a service has said, with times."""
    (container,) = stack.containers(service)
    words = [*engine.command, "logs", "--timestamps", "--tail", "80", container]
    done = stack.call(words, 30)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def single(compose: Callable[..., Stack]) -> Stack:
    stack = compose(*SINGLE)
    wait_until_scraped(stack, 1)
    return stack


def test_only_grafana_is_left_out_of_the_stack(single: Stack) -> None:
    whole = set(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"])
    running = set(single("ps", "--services").split())
    assert whole - running == {"grafana", "trainer", "loadtest"}


def test_the_image_runs_without_rights_and_has_nothing_that_trains(
    engine: Engine, single: Stack
) -> None:
    (container,) = single.containers("service")
    absent = (ROOT / "docker" / "absent.py").read_text(encoding="utf-8")
    engine("exec", container, "python", "-c", absent)
    names = ("-name", "torch", "-o", "-name", "torch-*", "-o", "-name", "libtorch*")
    assert engine("exec", container, "find", "/opt", "/usr", "/home", *names) == ""
    assert engine("exec", container, "id", "-u") == "10001"
    capabilities = engine("exec", container, "grep", "CapEff", "/proc/self/status")
    assert int(capabilities.split()[1], 16) == 0
    with pytest.raises(AssertionError, match="Read-only file system"):
        engine("exec", container, "touch", "/opt/slimq/new")
    with pytest.raises(AssertionError, match="Read-only file system"):
        engine("exec", container, "touch", "/policies/new")


def test_prometheus_says_what_the_clients_saw(single: Stack) -> None:
    for variant in VARIANTS:  # so that loading the variant is in nobody's figures
        run_one = Client(single.url, variant, 1, 0.0, 1, 0)
        run_one.run()
        assert run_one.seen.count(200) == 1
    wait_for_scrapes(single)
    first = time.time()
    clients = run_load(single, requests=600, interval=0.12, bad_every=10)
    end = time.time()
    wait_for_scrapes(single)
    last = time.time()
    for variant, client in clients.items():
        seen = client.seen
        assert seen.problems == []
        assert (seen.count(200), seen.count(422)) == (540, 60)
        of = f'policy="pong",variant="{variant}"'

        def grown(series: str, *, of: str = of) -> float:
            query = f"sum({series.format(of)})"
            return value(single, query, last) - value(single, query, first)

        assert grown("slimq_requests_total{{{0}}}") == 600
        assert grown("slimq_observations_total{{{0}}}") == 540 * 96
        assert grown("slimq_errors_total{{{0}}}") == 60
        assert grown('slimq_errors_total{{{0},code="invalid-observation"}}') == 60
        assert grown("slimq_http_request_seconds_count{{{0}}}") == 600
        check_samples(single, of, seen, first, last)
        check_quantiles(single, of, seen, first, last)
        check_records(single, of, seen, end - SCRAPE_SECONDS)


def check_samples(stack: Stack, of: str, seen: Any, first: float, last: float) -> None:
    """Each sample lies between what had ended when its scrape began and what had begun later."""
    series = f"slimq_requests_total{{{of}}}"
    (found,) = ask(stack, f"{series}[{math.ceil(last - first)}s]", last)
    samples = [(float(moment), float(count)) for moment, count in found["values"]]
    assert len(samples) >= 4
    start = value(stack, series, first)
    for moment, count in samples:
        assert seen.ended_before(moment - 0.5) <= count - start <= seen.began_before(moment + 1.0)
    rates = []
    for (earlier, before), (later, after) in pairwise(samples):
        rates.append((after - before) / (later - earlier))
    middle = samples[len(samples) // 2][0]
    window = 3 * SCRAPE_SECONDS
    rate = value(stack, f"rate({series}[{window}s])", middle + 1)
    assert min(rates) <= rate <= max(rates) + 1e-9


def check_quantiles(stack: Stack, of: str, seen: Any, first: float, last: float) -> None:
    """The 99th percentile that Prometheus has lies in the bucket of the clients', or beside it."""
    buckets = f"slimq_http_request_seconds_bucket{{{of}}}"
    before = f"{buckets} offset {round((last - first) * 1000)}ms"
    quantile = f"histogram_quantile(0.99, sum by (le) ({buckets} - {before}))"
    measured = value(stack, quantile, last)
    check_bucket(stack, of, measured, float(np.quantile(seen.seconds, 0.99)))


def check_bucket(stack: Stack, of: str, measured: float, client: float) -> None:
    found = ask(stack, f"slimq_http_request_seconds_bucket{{{of}}}")
    bounds = sorted(float(row["metric"]["le"]) for row in found)
    places = np.searchsorted(bounds, [measured, client])
    assert abs(int(places[0]) - int(places[1])) <= 1, f"{measured} s, {client} s by its clients"


def check_records(stack: Stack, of: str, seen: Any, moment: float) -> None:
    """What dashboards show, in the midst of a steady load: the deployed rules, over a minute."""
    minute = [row for row in seen.rows if moment - 60 < row[1] <= moment]
    rate = value(stack, f"variant:slimq_requests:rate1m{{{of}}}", moment)
    assert rate == pytest.approx(len(minute) / 60, rel=0.1)
    failed = sum(status != 200 for _, _, status in minute) / len(minute)
    errors = value(stack, f"variant:slimq_errors:ratio1m{{{of}}}", moment)
    assert errors == pytest.approx(failed, rel=0.2)
    p99 = value(stack, f"variant:slimq_http_request_seconds:p99_1m{{{of}}}", moment)
    check_bucket(stack, of, p99, float(np.quantile([e - b for b, e, _ in minute], 0.99)))


def test_the_load_test_of_the_stack_fills_what_dashboards_show(
    single: Stack, loadtest_image: None
) -> None:
    variants = ("fp32", "int8", "tiny")
    options = f"--policy pong --variants {','.join(variants)} --modes closed --seconds 0.5 --json"
    wait_for_scrapes(single)
    began = time.time()
    text = single("run", "--rm", "--no-deps", "loadtest", LOADTEST=options)
    report = json.loads(text[text.index("{") :])
    assert report["ended"] == "complete"
    assert {one["label"] for one in report["summaries"]} == set(variants)
    wait_for_scrapes(single)
    for one in report["summaries"]:
        assert one["failed"] == {}
        of = f'policy="pong",variant="{one["label"]}"'
        series = f"slimq_requests_total{{{of}}}"
        counted = value(single, series) - value(single, series, began)
        assert counted >= one["requests"] > 0  # the blocks' beginnings are not in the report
        for record in ("requests:rate1m", "http_request_seconds:p99_1m"):
            assert value(single, f"variant:slimq_{record}{{{of}}}") > 0


def test_a_service_that_is_killed_comes_back(engine: Engine, single: Stack) -> None:
    (container,) = single.containers("service")
    before = engine.inspect(container)
    os.kill(before["State"]["Pid"], signal.SIGKILL)
    wait_for("ready again", lambda: is_ready(single))
    after = engine.inspect(container)
    assert after["RestartCount"] == before["RestartCount"] + 1
    assert after["State"]["Pid"] != before["State"]["Pid"]
    wait_for_scrapes(single)
    wait_until_scraped(single, 1)
    assert value(single, 'sum(slimq_requests_total{policy="pong"})') == 0


@pytest.fixture(scope="module")
def replicated(single: Stack, compose: Callable[..., Stack]) -> Stack:
    stack = compose(*REPLICATED)
    wait_for("the proxy has replicas", lambda: is_ready(stack))
    wait_until_scraped(stack, 2)
    return stack


def test_prometheus_finds_every_replica_and_all_of_their_requests(replicated: Stack) -> None:
    clients = run_load(replicated, requests=60, interval=0.1, bad_every=6)
    wait_for_scrapes(replicated)
    for variant, client in clients.items():
        assert (client.seen.count(200), client.seen.count(422)) == (50, 10)
        of = f'{{policy="pong",variant="{variant}"}}'
        assert value(replicated, f"sum(slimq_requests_total{of})") == 60
        assert value(replicated, f"sum(slimq_errors_total{of})") == 10
    busy = ask(replicated, 'sum by (instance) (slimq_requests_total{policy="pong"}) > 0')
    assert len(busy) == 2


def test_the_proxy_passes_on_no_request_that_means_one_replica(replicated: Stack) -> None:
    with httpx.Client(base_url=replicated.url, trust_env=False) as client:
        assert client.get("/v1/policies").status_code == 200
        assert client.post("/v2/repository/index").status_code == 200
        for path in ("/metrics", "/%6detrics", "/v2/repository/models/pong/load"):
            answer = client.post(path) if "load" in path else client.get(path)
            assert (answer.status_code, answer.headers["content-type"]) == (404, "text/plain")


def test_an_upgrade_under_load_loses_no_request(
    engine: Engine, replicated: Stack, release: Callable[[str], None]
) -> None:
    old = set(replicated.containers("service"))
    release("next")
    clients = [Client(replicated.url, v, 4, 0.02, 10**6, 0) for v in VARIANTS for _ in range(2)]
    for client in clients:
        client.start()
    try:
        wait_for_answers(clients, 20)
        done = replicated.call(
            [str(ROOT / "docker" / "roll")],
            300,
            COMPOSE=" ".join(replicated.command),
            DOCKER=" ".join(engine.command),
        )
        wait_for_answers(clients, 40)
    finally:
        for client in clients:
            client.stop.set()
        for client in clients:
            client.join()
    assert done.returncode == 0, done.stderr[-3000:]
    new = set(replicated.containers("service"))
    assert len(new) == 2
    assert new.isdisjoint(old)
    for container in new:
        labels = engine.inspect(container)["Config"]["Labels"]
        assert labels["org.opencontainers.image.revision"] == "two"
    problems = [problem for client in clients for problem in client.seen.problems]
    assert problems == [], logs_of(engine, replicated, "proxy")
    for client in clients:
        assert client.seen.count(200) == len(client.seen.rows) > 100


def test_what_does_not_become_ready_leaves_the_old_replicas(
    engine: Engine, replicated: Stack, release: Callable[[str], None]
) -> None:
    old = set(replicated.containers("service"))
    release("broken")
    done = replicated.call(
        [str(ROOT / "docker" / "roll")],
        300,
        COMPOSE=" ".join(replicated.command),
        DOCKER=" ".join(engine.command),
        ROLL_SECONDS="10",
    )
    assert done.returncode == 1
    assert "the old ones continue" in done.stderr
    assert "SLIMQ_WORKERS" in done.stderr  # what the new ones said
    assert set(replicated("ps", "--all", "--quiet", "service").split()) == old
    assert is_ready(replicated)
