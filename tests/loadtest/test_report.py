"""Report, tables, page and plots, all of the same recording."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from array import array
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import pytest
from hdrh.histogram import HdrHistogram
from pydantic import TypeAdapter

from slimq.loadtest.analysis import as_percent
from slimq.loadtest.driver import BlockResult
from slimq.loadtest.html_page import render_page
from slimq.loadtest.plan import Plan, name_subjects
from slimq.loadtest.plots import draw_plots
from slimq.loadtest.recording import Recording
from slimq.loadtest.report import Report, RunInfo, make_report
from slimq.loadtest.tables import judge, render, sections, verdicts

FACTORS = {"fp32": 1.0, "int8": 0.5, "tiny": 1.0}
"""What a variant takes, of what the baseline does."""


def answer(milliseconds: float, **values: Any) -> BlockResult:
    plain = {"seconds": 1.0, "sent": 100, "answered": 100, "completed": 100, "generator": 0.1}
    latencies = array("d", [milliseconds / 1000 * (1 + index / 100) for index in range(100)])
    return BlockResult(**{**plain, "latencies": latencies, **values})


def make(recording: Recording, ended: str = "complete", **options: Any) -> Report:
    subjects = name_subjects(list(FACTORS), list(FACTORS))
    plan = Plan(subjects=subjects, baseline="fp32", rounds=14, **options)
    info = RunInfo(
        url="http://host:8000",
        policy="pong",
        models=dict.fromkeys(FACTORS, "0" * 64),
        observations="1,000 observations from the calibration set",
        started="2026-01-02 03:04:05 UTC",
        seconds=61.4,
        ended=ended,
    )
    return make_report(recording, plan, info)


@pytest.fixture(scope="module")
def report() -> Report:
    recording = Recording()
    for number in range(14):
        wobble = 1 + 0.01 * (number % 5)
        for label, factor in FACTORS.items():
            wave = wobble if label != "tiny" else 2.05 - wobble
            closed = answer(4 * factor * wave, completed=int(100 / factor))
            recording.add("closed", number, label, None, closed, 0.1 * factor * wave)
            opened = answer(2 * factor * wave, lateness=array("d", [1e-5]))
            recording.add("open", number, label, 50.0, opened, 0.1 * factor * wave)
    for sweep in range(2):
        for label, factor in FACTORS.items():
            for rate in (100.0, 200.0, 400.0):
                late = answer(2.5 * factor * rate / 100)
                recording.add("steps", sweep, label, rate, late, None)
            recording.endings[label, sweep] = "p99"
    return make(recording)


def test_summaries_are_over_all_blocks_of_a_mode(report: Report) -> None:
    found = {(s.mode, s.label, s.rate): s for s in report.summaries}
    assert len(found) == 3 + 3 + 9
    closed = found["closed", "int8", None]
    assert closed.requests == 1400
    assert (closed.throughput_low, closed.throughput, closed.throughput_high) == (200, 200, 200)
    assert closed.quantiles_us[0.5] == pytest.approx(3050, rel=0.01)
    assert closed.processor_us == pytest.approx(510, rel=0.01)
    assert found["steps", "tiny", 200.0].requests == 200
    assert HdrHistogram.decode(closed.histogram).get_total_count() == 1400


def test_the_text_says_what_is_real_and_what_is_not(report: Report) -> None:
    text = render(report, markdown=False)
    assert "2026-01-02 03:04:05 UTC, 61 s, complete; 1,000 observations" in text
    assert "Closed loop: 4 connections, always busy, 14 rounds of 0.5 s, interleaved" in text
    assert "Open loop: 50 requests/s" in text
    assert "with a p99 of at most 10 ms, 2 sweeps" not in text
    lines = text.splitlines()
    (int8,) = [line for line in lines if line.startswith("- int8 against fp32")]
    assert "requests/s 100.0% higher in the closed loop (better)" in int8
    assert "p99 50.0% lower in the open loop (better)" in int8
    assert "processor time 50.0% lower in the closed loop (better)" in int8
    assert "- tiny against fp32: no difference exceeds the noise" in lines
    (held,) = [line for line in lines if line.startswith("fp32") and "200, 200" in line]
    assert held.endswith("the p99 was above the target")


def test_markdown_has_the_same_cells_as_the_text(report: Report) -> None:
    markdown = render(report, markdown=True)
    tables = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert sum(line.startswith("| ---") for line in tables) == 5
    text = render(report, markdown=False)
    rows = [line.strip("| ").split(" | ") for line in tables if not line.startswith("| ---")]
    lines = [re.split(" {2,}", line.strip()) for line in text.splitlines()]
    assert [line for line in lines if len(line) > 2] == rows
    assert all(f"- {line}" in markdown for line in verdicts(report))


def test_the_document_reads_back_as_the_report(report: Report) -> None:
    adapter = TypeAdapter(Report)
    text = json.dumps(adapter.dump_python(report, mode="json"))
    assert adapter.validate_json(text) == report


def test_less_is_better_but_for_throughput(report: Report) -> None:
    found = {(d.mode, d.statistic, d.label): d for d in report.differences}
    assert judge(found["closed", "throughput", "int8"]) == "better"
    assert judge(found["closed", "p99", "int8"]) == "better"
    assert judge(found["closed", "p99", "tiny"]) == "within the noise"


class Checker(HTMLParser):
    """Holds tags to being closed in order, and counts them."""

    VOID = frozenset({"meta"})

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.counts[tag] += 1
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.counts[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(report: Report) -> None:
    drawings = draw_plots(report)
    assert drawings == draw_plots(report)
    assert len(drawings) == 4
    for svg in drawings.values():
        ElementTree.fromstring(svg)
    page = render_page(report, drawings)
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert (checker.counts["table"], checker.counts["svg"]) == (5, 4)
    assert "src=" not in page
    assert "<script" not in page


def test_names_are_escaped(report: Report) -> None:
    from dataclasses import replace

    page = render_page(replace(report, url="http://<b>&", notes=("<i>",)), {})
    assert "http://&lt;b&gt;&amp;" in page
    assert "<i>" not in page


def test_a_report_of_nothing_says_so() -> None:
    report = make(Recording(), ended="interrupted")
    assert "61 s, interrupted" in render(report, markdown=False)
    assert report.summaries == report.differences == report.capacities == ()
    assert draw_plots(report) == {}
    assert "<table" not in render_page(report, {})


def test_few_rounds_are_not_compared() -> None:
    recording = Recording()
    for number in range(3):
        for label, factor in FACTORS.items():
            recording.add("closed", number, label, None, answer(4 * factor), None)
    report = make(recording)
    assert "int8 against fp32: not compared in the closed loop: 3 rounds" in verdicts(report)
    assert "0.500 |" in render(report, markdown=True)


def test_an_open_loop_that_was_cut_short_leaves_the_verdicts_of_the_closed_one() -> None:
    recording = Recording()
    for number in range(14):
        for label, factor in FACTORS.items():
            processor = 0.1 * factor if number < 2 else None
            recording.add("closed", number, label, None, answer(4 * factor), processor)
            if number < 3:
                recording.add("open", number, label, 50.0, answer(2 * factor), None)
    (int8, tiny) = verdicts(make(recording))
    assert "p50 50.0% lower in the closed loop (better)" in int8
    assert int8.endswith(
        "; processor time not compared in the closed loop: 2 rounds; "
        "not compared in the open loop: 3 rounds"
    )
    assert "no difference exceeds the noise; processor time not" in tiny


def test_a_variant_that_lost_requests_is_named_with_the_reason_and_not_called_better() -> None:
    recording = Recording()
    for number in range(14):
        for label, factor in FACTORS.items():
            lost = Counter({"timeout": 4, "503": 1}) if label == "int8" else Counter()
            took = answer(4 * factor, failed=lost)
            recording.add("closed", number, label, None, took, None)
    report = make(recording)
    found = {(d.statistic, d.label): judge(d) for d in report.differences}
    assert found["p50", "int8"] == found["p99", "int8"] == "not judged: 5 % lost"
    assert found["p50", "tiny"] == "within the noise"
    assert (
        "closed: int8 lost 5 % of its requests (56 × timeout, 14 × 503); "
        "latencies cover only the others" in report.notes
    )
    assert "p10, p50, p99 not judged in the closed loop: 5 % lost" in verdicts(report)[0]


def test_a_rate_past_which_nothing_was_tried_is_shown_as_a_bound() -> None:
    recording = Recording(endings={("fp32", 0): "p99", ("int8", 0): "cap", ("tiny", 0): "cap"})
    for label in FACTORS:
        recording.add("steps", 0, label, 267.0, answer(2.0), None)
    recording.add("steps", 0, "fp32", 400.0, answer(20.0), None)
    (line,) = [s for s in render(make(recording), markdown=True).splitlines() if "| int8" in s]
    cells = line.strip("| ").split(" | ")
    assert cells[:4] == ["int8", "≥ 267", "267", "≥ 1.00 (1.00 to 1.00)"]
    assert cells[4] == "the maximum rate was sustained"


def test_what_a_reader_must_know_is_noted() -> None:
    recording = Recording()
    for number in range(14):
        for label in FACTORS:
            late = answer(2, lateness=array("d", [0.01]), dropped=3, failed=Counter({"503": 2}))
            recording.add("open", number, label, 50.0, late, None)
            recording.add("steps", number, label, 50.0, late, None)
            busy = answer(2, generator=0.95)
            recording.add("closed", number, label, None, busy, None)
    notes = "\n".join(make(recording).notes)
    assert "closed: in 42 of 42 blocks the load generator was busy for more than 85%" in notes
    assert "open: in 42 of 42 blocks the load generator itself was late by more than 10%" in notes
    assert "steps: in 42 of 42 blocks the load generator itself was late by more" in notes
    assert "steps: tiny lost" not in notes
    assert "open: tiny lost 4.85 % of its requests (42 × dropped, 28 × 503)" in notes


def test_one_block_in_which_the_generator_was_late_is_noted() -> None:
    """Its stall is in the p99 of that block, and would be taken for the service's."""
    recording = Recording()
    for number in range(14):
        lateness = array("d", [0.01 if number == 3 else 1e-6])
        recording.add("open", number, "fp32", 50.0, answer(2, lateness=lateness), None)
    (note,) = make(recording, modes=("open",)).notes
    assert note.startswith("open: in 1 of 14 blocks the load generator itself was late by more")


def test_a_share_that_is_lost_is_a_plain_number() -> None:
    assert [as_percent(share) for share in (0.00123456, 0.05, 0.999, 1.0)] == [
        "0.123 %",
        "5 %",
        "99.9 %",
        "100 %",
    ]


def test_the_page_says_under_what_load_its_figures_are(report: Report) -> None:
    page = render_page(report, {})
    assert (
        "<h2>Closed loop: 4 connections, always busy, 14 rounds of 0.5 s, interleaved</h2>" in page
    )
    for title, _ in sections(report):
        assert f"<h2>{title}</h2>" in page


def test_an_interrupted_report_counts_the_rounds_that_it_has() -> None:
    recording = Recording()
    for number in range(5):
        recording.add("closed", number, "fp32", None, answer(2), None)
    text = render(make(recording, ended="interrupted"), markdown=False)
    assert "always busy, 5 of 14 rounds of 0.5 s" in text
