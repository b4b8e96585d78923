from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from mounts import mounted
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


@pytest.fixture
def table() -> Iterator[WorkerTable]:
    """Of two workers that do not run yet."""
    made = WorkerTable.create(2)
    yield made
    made.close()


def live(table: WorkerTable, *indexes: int) -> None:
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


def test_workers_add_up_whichever_is_asked(tmp_path: Path, table: WorkerTable) -> None:
    first, second = Registry(tmp_path, 0, table), Registry(tmp_path, 1, table)
    fill(first, 2)
    fill(second, 3)
    live(table, 0, 1)
    assert first.render() == second.render()
    assert sample_value(first, "depth") == 10
    assert sample_value(first, "info", {"version": "1"}) == 1
    labels = dict(zip(NAMES, KEY, strict=True))
    assert sample_value(first, "requests_total", labels) == 5
    assert sample_value(first, "seconds_count", labels) == 20
    assert sample_value(first, "seconds_bucket", labels | {"le": "1.0"}) == 15
    assert sample_value(first, "seconds_sum", labels) == pytest.approx(5 * 7.65)


def fill_up(folder: Path) -> Path:
    """Takes all space that the file system has; returns the file that does."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return filler


def test_series_without_space_on_disk_are_in_memory_and_said_to_be(
    tmp_path: Path, table: WorkerTable
) -> None:
    with mounted("-t", "tmpfs", "-o", "size=2m", "none", at=tmp_path), capture_logs() as logs:
        first, second = Registry(tmp_path, 0, table), Registry(tmp_path, 1, table)
        live(table, 0, 1)
        fill(first, 2)
        fill(second, 3)
        filler = fill_up(tmp_path)
        bounds = tuple(map(float, range(2**16)))
        wide = first.histogram("wide", "Wide", ("which",), bounds).labels("x")
        second.histogram("wide", "Wide", ("which",), bounds)
        wide.observe(3.0)
        assert (first.unshared, second.unshared) == (1, 0)
        assert sample_value(first, "wide_count", {"which": "x"}) == 1
        assert sample_value(second, "wide_count", {"which": "x"}) is None
        late = [one.counter("late", "Late", ("which",)) for one in (first, second)]
        names = [f"{number:0100}" for number in range(100)]  # more than a page of the layout
        for family in late:
            for name in names:
                family.labels(name).inc()
        labels = dict(zip(NAMES, KEY, strict=True))
        for registry in (first, second):
            assert sample_value(registry, "requests_total", labels) == 5, "shared before"
            assert sample_value(registry, "late_total", {"which": names[-1]}) == 1
            assert registry.unshared > 0
        filler.unlink()
        late[0].labels("again").inc()
        late[1].labels("again").inc()
        for registry in (first, second):
            assert sample_value(registry, "late_total", {"which": "again"}) == 2
            assert sample_value(registry, "depth") == 10
            list(text_string_to_metric_families(registry.render()))
        wide.observe(3.0)
        assert sample_value(first, "wide_count", {"which": "x"}) == 2
    events = [line["event"] for line in logs]
    assert events == ["metrics are not shared with the other workers"] * 2
    assert {line["problem"] for line in logs} == {"No space left on device"}


def test_a_worker_that_replaces_another_on_a_full_disk_goes_on_with_its_series(
    tmp_path: Path,
    table: WorkerTable,
) -> None:
    with mounted("-t", "tmpfs", "-o", "size=1m", "none", at=tmp_path):
        fill(Registry(tmp_path, 0, table))
        fill_up(tmp_path)
        again = Registry(tmp_path, 0, table)
        fill(again)
        labels = dict(zip(NAMES, KEY, strict=True))
        assert sample_value(again, "requests_total", labels) == 2
        assert again.unshared == 0


def test_without_a_folder_that_can_be_written_series_are_in_memory(
    tmp_path: Path, table: WorkerTable
) -> None:
    with mounted("-t", "tmpfs", "-o", "size=1m,ro", "none", at=tmp_path):
        registry = Registry(tmp_path, 0, table)
        fill(registry, 2)
        assert sample_value(registry, "depth") == 4
        assert registry.unshared == 4
    for folder in (tmp_path / "nowhere", None):
        registry = Registry(folder, 0, table)
        fill(registry, 2)
        assert sample_value(registry, "depth") == 4
        assert registry.unshared == 4
    alone = Registry()
    fill(alone)
    assert alone.unshared == 0


def test_values_of_other_workers_stay_when_their_files_are_gone(
    tmp_path: Path, table: WorkerTable
) -> None:
    first, second = Registry(tmp_path, 0, table), Registry(tmp_path, 1, table)
    fill(first)
    fill(second, 2)
    live(table, 0, 1)
    labels = dict(zip(NAMES, KEY, strict=True))
    assert sample_value(first, "requests_total", labels) == 3
    shutil.rmtree(tmp_path)
    assert sample_value(first, "requests_total", labels) == 3
    first.counter("late", "Late").labels().inc()
    assert sample_value(first, "late_total") == 1
    assert first.unshared == 1


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, None])
def test_a_file_system_that_cannot_allocate_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int | None, table: WorkerTable
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(code, "Operation not supported")

    if code is None:
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", fail)
    registry = Registry(tmp_path, 0, table)
    registry.counter("a", "A").labels().inc()
    assert sample_value(registry, "a_total") == 1
    assert (tmp_path / "worker-0.values").stat().st_blocks * 512 >= 2**18
    assert registry.unshared == 0


def test_a_series_that_only_another_worker_has_is_there_too(
    tmp_path: Path, table: WorkerTable
) -> None:
    first, second = Registry(tmp_path, 0, table), Registry(tmp_path, 1, table)
    first.counter("requests", "Requests", NAMES)
    family = second.counter("requests", "Requests", NAMES)
    for number, variant in enumerate(("a", "b"), start=1):
        family.labels("pong", variant).inc(number)
        found = sample_value(first, "requests_total", {"policy": "pong", "variant": variant})
        assert found == number


def test_counters_outlive_their_worker_and_gauges_do_not(
    tmp_path: Path, table: WorkerTable
) -> None:
    first, second = Registry(tmp_path, 0, table), Registry(tmp_path, 1, table)
    fill(first)
    fill(second)
    labels = dict(zip(NAMES, KEY, strict=True))
    live(table, 0)
    assert sample_value(first, "depth") == 2
    assert sample_value(first, "requests_total", labels) == 2
    del second
    with (tmp_path / "worker-1.layout").open("a") as file:
        file.write('["requests_total", ["po')  # it died in the middle of a line
    third = Registry(tmp_path, 1, table)
    live(table, 0, 1)
    fill(third)
    third.counter("late", "Late").labels().inc()
    assert sample_value(first, "depth") == 4
    assert sample_value(first, "requests_total", labels) == 3
    assert sample_value(first, "seconds_count", labels) == 12
    first.counter("late", "Late")
    again = Registry(tmp_path, 1, table)
    assert again.counter("late", "Late").labels() is not None
    assert sample_value(again, "late_total") == 1


def test_what_a_worker_takes_up_again_after_a_scrape_is_in_the_next_one(
    tmp_path: Path, table: WorkerTable
) -> None:
    fill(Registry(tmp_path, 0, table))
    again = Registry(tmp_path, 0, table)
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
