"""The files of a report, in an order that loses no figures.

A measurement takes minutes and drawing may fail: the document goes to the disk first, whole or not
at all, then the Markdown, and the page with its plots last.
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
    """The whole report as JSON, with the verdict of each difference."""
    document: dict[str, Any] = TypeAdapter(Report).dump_python(report, mode="json")
    for difference, plain in zip(report.differences, document["differences"], strict=True):
        plain |= {"real": difference.real, "verdict": judge(difference)}
    return json.dumps(document, indent=2, ensure_ascii=False)


def write_figures(report: Report, folder: Path) -> None:
    """Writes the document and then the Markdown.

    Raises:
        OSError: the disk is full, for example; no half of a file is left.
    """
    _write(folder, "json", render_document(report) + "\n")
    _write(folder, "md", render(report, markdown=True))


def write_page(report: Report, folder: Path) -> str | None:
    """Draws the plots and writes the page; without plots where they cannot be drawn.

    Returns:
        Why there are no plots; None where there are.

    Raises:
        OSError: as above.
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
