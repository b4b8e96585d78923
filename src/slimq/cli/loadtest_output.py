"""Progress bar, report files and signal handling of `slimq loadtest`."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import typer
from tqdm import tqdm

from slimq.core.errors import CheckFailedError, ServiceError
from slimq.loadtest.plan import Plan
from slimq.loadtest.recording import Recording
from slimq.loadtest.report import Report
from slimq.loadtest.report_files import STEM, render_document, write_figures, write_page
from slimq.loadtest.service import Service
from slimq.loadtest.session import Progress, estimate_seconds, run_plan
from slimq.loadtest.stop import Stop, StoppedError, TimeIsUpError
from slimq.loadtest.tables import render

_BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[Stop]:
    """Makes Ctrl-C and SIGTERM request a stop, and nothing else.

    A second signal, while the report is being written, must not lose the measurements.
    """
    stop = Stop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: stop.request()) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_with_bar(
    service: Service, plan: Plan, recording: Recording, stop: Stop
) -> tuple[str, Exception | None]:
    """Runs the plan with a bar that shows the progress and the figures of the last block.

    Returns:
        How it ended, for the report, and the error to raise once the report is written; None if
        everything was measured.
    """
    total = estimate_seconds(plan)
    try:
        with tqdm(total=total, bar_format=_BAR, dynamic_ncols=True) as bar:

            def show(progress: Progress) -> None:
                where = progress.mode or "warm-up"
                bar.set_description(f"{where} {progress.label}", refresh=False)
                bar.set_postfix(_figures(progress), refresh=False)
                bar.update(min(total, progress.share * total) - bar.n)

            run_plan(service, plan, recording, show, stop)
    except StoppedError:
        return "interrupted", typer.Exit(130)
    except TimeIsUpError:
        ended = f"ended after the time limit of {plan.minutes:g} minutes"
        return ended, CheckFailedError(f"the load test {ended}; results so far are written")
    except ServiceError as error:
        return f"ended by an error: {error}", error
    return "complete", None


def save_figures(report: Report, folder: Path) -> OSError | None:
    """Writes the figures; returns an error instead of raising, as they can still be printed."""
    try:
        write_figures(report, folder)
    except OSError as error:
        return error
    return None


def show_report(report: Report, folder: Path, unwritten: OSError | None, *, as_json: bool) -> None:
    """Prints the figures as text or JSON, then draws the plots, which may fail.

    Raises:
        OSError: the figures or the page could not be written.
    """
    text = render_document(report) if as_json else render(report, markdown=False)
    typer.echo(text, nl=as_json)
    if unwritten is not None:
        raise unwritten
    problem = write_page(report, folder)
    if problem is not None:
        typer.echo(f"could not draw the plots: {problem}", err=True)
    typer.echo(f"wrote {readable(folder)}/{STEM}.json, .html and .md", err=True)


def readable(path: str | Path) -> str:
    """A path as printable text, with undecodable bytes replaced."""
    return os.fsencode(path).decode(errors="replace")


def _figures(progress: Progress) -> dict[str, str]:
    sample = progress.sample
    if sample is None:
        return {}
    figures = {"req/s": f"{sample.throughput:,.0f}"}
    if sample.p50_us is not None and sample.p99_us is not None:
        figures |= {"p50": f"{sample.p50_us / 1000:.2f}ms", "p99": f"{sample.p99_us / 1000:.2f}ms"}
    return figures
