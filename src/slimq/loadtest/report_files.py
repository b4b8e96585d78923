"""Writes a report's files, in an order that cannot lose figures.

A load test takes minutes and drawing may fail, so the JSON document is written first, atomically,
then the Markdown, and the HTML page with its plots last.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from slimq.core.atomic import write_atomically
from slimq.loadtest.html_page import render_page
from slimq.loadtest.plots import draw_plots
from slimq.loadtest.report import Report
from slimq.loadtest.tables import judge, render

STEM = "loadtest"


def render_document(report: Report) -> str:
    """Renders the report as JSON, with a verdict for each difference."""
    document: dict[str, Any] = TypeAdapter(Report).dump_python(report, mode="json")
    for difference, plain in zip(report.differences, document["differences"], strict=True):
        plain |= {"real": difference.real, "verdict": judge(difference)}
    return json.dumps(document, indent=2, ensure_ascii=False)


def write_figures(report: Report, folder: Path) -> None:
    """Writes the JSON document, then the Markdown.

    Raises:
        OSError: for example, the disk is full; no partial file remains.
    """
    _write(folder, "json", render_document(report) + "\n")
    _write(folder, "md", render(report, markdown=True))


def write_page(report: Report, folder: Path) -> str | None:
    """Draws the plots and writes the HTML page, without plots if they cannot be drawn.

    Returns:
        The reason if there are no plots, otherwise None.

    Raises:
        OSError: the page cannot be written.
    """
    drawings, problem = {}, None
    try:
        drawings = draw_plots(report)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    _write(folder, "html", render_page(report, drawings))
    return problem


def _write(folder: Path, suffix: str, text: str) -> None:
    write_atomically(folder / f"{STEM}.{suffix}", text.encode())
