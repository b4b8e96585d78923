from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slimq.loadtest.plan import Plan, Subject
from slimq.loadtest.report import Report
from slimq.loadtest.report_files import STEM, render_document, write_figures, write_page
from slimq.loadtest.tables import render

DRAW = "slimq.loadtest.report_files.draw_plots"


@pytest.fixture
def report() -> Report:
    """One of nothing."""
    return Report(
        url="http://host:8000",
        policy="pong",
        models={},
        observations="none",
        started="2026-01-02 03:04:05 UTC",
        seconds=1.0,
        ended="interrupted",
        plan=Plan(subjects=(Subject("fp32", "fp32"),), baseline="fp32"),
        summaries=(),
        differences=(),
        capacities=(),
        notes=(),
        samples=(),
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_figures_are_there_before_anything_is_drawn(report: Report, tmp_path: Path) -> None:
    write_figures(report, tmp_path)
    assert names(tmp_path) == [f"{STEM}.json", f"{STEM}.md"]
    assert json.loads((tmp_path / f"{STEM}.json").read_text())["policy"] == "pong"
    assert (tmp_path / f"{STEM}.json").read_text() == render_document(report) + "\n"
    assert (tmp_path / f"{STEM}.md").read_text() == render(report, markdown=True)


def test_plots_that_cannot_be_drawn_leave_a_page_without_them(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert write_page(report, tmp_path) is None

    def fail(report: Report) -> dict[str, str]:
        raise ValueError("no such font")

    monkeypatch.setattr(DRAW, fail)
    assert write_page(report, tmp_path) == "ValueError: no such font"
    page = (tmp_path / f"{STEM}.html").read_text()
    assert "pong at http://host:8000" in page
    assert "<svg" not in page


def test_a_folder_that_went_away_costs_no_output(
    report: Report, tmp_path: Path, capsys: Any
) -> None:
    from slimq.cli.loadtest_output import save_figures, show_report

    unwritten = save_figures(report, tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        show_report(report, tmp_path / "gone", unwritten, as_json=True)
    assert json.loads(capsys.readouterr().out)["ended"] == "interrupted"


@pytest.fixture
def hears_interrupts() -> Iterator[None]:
    """Also where a script started the tests in the background, which ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("hears_interrupts")
def test_an_interrupt_while_plots_are_drawn_loses_no_figures(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from slimq.cli.loadtest_output import save_figures, show_report

    def interrupt(report: Report) -> dict[str, str]:
        os.kill(os.getpid(), signal.SIGINT)
        return {}

    monkeypatch.setattr(DRAW, interrupt)
    unwritten = save_figures(report, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        show_report(report, tmp_path, unwritten, as_json=False)
    assert names(tmp_path) == [f"{STEM}.json", f"{STEM}.md"]
    assert "pong at http://host:8000" in capsys.readouterr().out


@pytest.mark.usefixtures("hears_interrupts")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_figures_are_written_is_not_heard(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    import slimq.loadtest.report_files as report_files
    from slimq.cli.loadtest_output import save_figures, stopping_on_signals

    def impatient(path: Path, content: bytes) -> None:
        os.kill(os.getpid(), number)
        path.write_bytes(content)

    before = signal.getsignal(number)
    monkeypatch.setattr(report_files, "write_atomically", impatient)
    with stopping_on_signals() as stop:
        assert save_figures(report, tmp_path) is None
    assert stop.requested
    assert {f"{STEM}.json", f"{STEM}.md"} <= set(names(tmp_path))
    assert signal.getsignal(number) is before
