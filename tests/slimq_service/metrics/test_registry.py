from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from samples import sample_value
from slimq_service.http.worker_table import State, WorkerTable
from slimq_service.metrics.registry import Registry

NAMES = ("policy", "variant")
KEY = ("pong", "int8")


def fill(registry: Registry, times: int = 1) -> dict[str, Any]:
    made = {
        "requests": registry.counter("requests", "Requests", NAMES).labels(*KEY),
        "depth": registry.gauge("depth", "Depth").labels(),
        "seconds": registry.histogram("seconds", "Seconds", NAMES, (0.1, 1.0)).labels(*KEY),
        "info": registry.gauge("info", "Facts", ("version",), largest=True).labels("1"),
    }
    made["info"].set(1)
    for _ in range(times):
        made["requests"].inc()
        made["depth"].inc(3)
        made["depth"].dec()
        for value in (0.05, 0.1, 0.5, 7.0):
            made["seconds"].observe(value)
    return made


def live(folder: Path, *indexes: int) -> None:
    table = WorkerTable(folder, 2)
    for index in indexes:
        table.set_state(index, State.ANSWERING, index + 100)


def test_the_text_is_what_prometheus_client_writes() -> None:
    registry = Registry()
    fill(registry, 2)
    theirs = CollectorRegistry()
    Counter("requests", "Requests", NAMES, registry=theirs).labels(*KEY).inc(2)
    Gauge("depth", "Depth", registry=theirs).set(4)
    seconds = Histogram("seconds", "Seconds", NAMES, buckets=(0.1, 1.0), registry=theirs)
    for value in (0.05, 0.1, 0.5, 7.0) * 2:
        seconds.labels(*KEY).observe(value)
    Gauge("info", "Facts", ("version",), registry=theirs).labels("1").set(1)

    def lines(text: str) -> set[str]:
        return {line for line in text.splitlines() if "_created" not in line}

    assert lines(registry.render()) == lines(generate_latest(theirs).decode())
    assert list(text_string_to_metric_families(registry.render()))


def test_values_of_labels_are_escaped() -> None:
    registry = Registry()
    registry.counter("odd", "Odd", ("name",)).labels('a"b\\c\nd').inc()
    (family,) = text_string_to_metric_families(registry.render())
    assert family.samples[0].labels == {"name": 'a"b\\c\nd'}


def test_a_series_of_other_labels_is_refused() -> None:
    family = Registry().counter("requests", "Requests", NAMES)
    with pytest.raises(ValueError, match="requests_total"):
        family.labels("pong")


def test_workers_add_up_whichever_is_asked(tmp_path: Path) -> None:
    first, second = Registry(tmp_path, 0), Registry(tmp_path, 1)
    fill(first, 2)
    fill(second, 3)
    live(tmp_path, 0, 1)
    assert first.render() == second.render()
    assert sample_value(first, "depth") == 10
    assert sample_value(first, "info", {"version": "1"}) == 1
    labels = dict(zip(NAMES, KEY, strict=True))
    assert sample_value(first, "requests_total", labels) == 5
    assert sample_value(first, "seconds_count", labels) == 20
    assert sample_value(first, "seconds_bucket", labels | {"le": "1.0"}) == 15
    assert sample_value(first, "seconds_sum", labels) == pytest.approx(5 * 7.65)


def test_a_disk_without_room_is_an_error_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(tmp_path, 0)
    first = registry.counter("a", "A").labels()
    first.inc()
    family = registry.histogram("b", "B", ("which",), tuple(map(float, range(2**16))))

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as changed:
        changed.setattr(os, "posix_fallocate", fail)
        with pytest.raises(OSError, match="No space"):
            family.labels("x")
    assert sample_value(registry, "a_total") == 1
    family.labels("x").observe(3.0)
    assert sample_value(registry, "b_count", {"which": "x"}) == 1
    assert (tmp_path / "worker-0.values").stat().st_blocks * 512 >= 2**16 * 8


def test_a_file_system_that_reserves_nothing_is_good_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    registry = Registry(tmp_path, 0)
    registry.counter("a", "A").labels().inc()
    assert sample_value(registry, "a_total") == 1


def test_a_series_that_only_another_worker_has_is_there_too(tmp_path: Path) -> None:
    first, second = Registry(tmp_path, 0), Registry(tmp_path, 1)
    first.counter("requests", "Requests", NAMES)
    family = second.counter("requests", "Requests", NAMES)
    for number, variant in enumerate(("a", "b"), start=1):
        family.labels("pong", variant).inc(number)
        found = sample_value(first, "requests_total", {"policy": "pong", "variant": variant})
        assert found == number


def test_counters_outlive_their_worker_and_gauges_do_not(tmp_path: Path) -> None:
    first, second = Registry(tmp_path, 0), Registry(tmp_path, 1)
    fill(first)
    fill(second)
    labels = dict(zip(NAMES, KEY, strict=True))
    live(tmp_path, 0)
    assert sample_value(first, "depth") == 2
    assert sample_value(first, "requests_total", labels) == 2
    del second
    with (tmp_path / "worker-1.layout").open("a") as file:
        file.write('["requests_total", ["po')  # it died in the middle of a line
    third = Registry(tmp_path, 1)
    live(tmp_path, 0, 1)
    fill(third)
    third.counter("late", "Late").labels().inc()
    assert sample_value(first, "depth") == 4
    assert sample_value(first, "requests_total", labels) == 3
    assert sample_value(first, "seconds_count", labels) == 12
    first.counter("late", "Late")
    again = Registry(tmp_path, 1)
    assert again.counter("late", "Late").labels() is not None
    assert sample_value(again, "late_total") == 1


def test_what_a_worker_takes_up_again_after_a_scrape_is_in_the_next_one(tmp_path: Path) -> None:
    fill(Registry(tmp_path, 0))
    again = Registry(tmp_path, 0)
    assert again.render() == ""
    fill(again, 0)
    assert sample_value(again, "requests_total", dict(zip(NAMES, KEY, strict=True))) == 1


def test_series_that_appear_while_others_are_scraped_are_all_there() -> None:
    registry = Registry()
    family = registry.counter("requests", "Requests", ("name",))
    ended = threading.Event()
    texts: list[str] = []

    def scrape() -> None:
        while not ended.is_set():
            texts.append(registry.render())

    scraping = threading.Thread(target=scrape)
    scraping.start()
    for number in range(2000):
        family.labels(str(number)).inc()
    ended.set()
    scraping.join()
    assert texts
    assert registry.render().count("requests_total{") == 2000
