"""What `slimq loadtest` shows while it runs, and what it leaves behind however it ends."""

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
from slimq.loadtest.session import Progress, guess_seconds, run_plan
from slimq.loadtest.stop import Stop, StoppedError, TimeIsUpError
from slimq.loadtest.tables import render

_BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


@contextlib.contextmanager
def heeding_signals() -> Iterator[Stop]:
    """Has Ctrl-C and SIGTERM ask for the end of the load, and do nothing else.

    Another one, while the figures are written, must not cost what was measured.
    """
    stop = Stop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: stop.ask()) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_with_bar(
    service: Service, plan: Plan, recording: Recording, stop: Stop
) -> tuple[str, Exception | None]:
    """Runs the plan under a bar that shows the share done, and the block that is over.

    Returns:
        How it ended, for the report, and what is to be raised when that is written; None where
        everything was measured.
    """
    total = guess_seconds(plan)
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
        ended = f"ended after its {plan.minutes:g} minutes"
        return ended, CheckFailedError(f"the load test {ended}; what was measured is written")
    except ServiceError as error:
        return f"ended by an error: {error}", error
    return "complete", None


def keep_figures(report: Report, folder: Path) -> OSError | None:
    """Writes the figures; what kept them from it is returned, since they can still be printed."""
    try:
        write_figures(report, folder)
    except OSError as error:
        return error
    return None


def show_report(report: Report, folder: Path, unwritten: OSError | None, *, as_json: bool) -> None:
    """Prints the figures, as text or as the document, and draws last, which may fail.

    Raises:
        OSError: what kept the figures from being written, or keeps the page from it.
    """
    text = render_document(report) if as_json else render(report, markdown=False)
    typer.echo(text, nl=as_json)
    if unwritten is not None:
        raise unwritten
    problem = write_page(report, folder)
    if problem is not None:
        typer.echo(f"no plots could be drawn: {problem}", err=True)
    typer.echo(f"wrote {readable(folder)}/{STEM}.json, .html and .md", err=True)


def readable(path: str | Path) -> str:
    """A name as text that can be written: bytes that are none are replaced."""
    return os.fsencode(path).decode(errors="replace")


def _figures(progress: Progress) -> dict[str, str]:
    sample = progress.sample
    if sample is None:
        return {}
    figures = {"req/s": f"{sample.throughput:,.0f}"}
    if sample.p50_us is not None and sample.p99_us is not None:
        figures |= {"p50": f"{sample.p50_us / 1000:.2f}ms", "p99": f"{sample.p99_us / 1000:.2f}ms"}
    return figures
