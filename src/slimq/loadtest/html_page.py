"""Renders a report as a self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from slimq.loadtest.report import Report
from slimq.loadtest.tables import describe, sections, verdicts

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 0 0 1.5rem; }
th, td { border-bottom: 1px solid #8884; padding: .25rem .6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
div { overflow-x: auto; }
figure { display: inline-block; margin: 0 1rem 1rem 0; }
svg { background: #fff; height: auto; max-width: 100%; }
"""


def render_page(report: Report, drawings: Mapping[str, str]) -> str:
    """Renders the page.

    Args:
        report: the report.
        drawings: SVG by title, inserted unescaped.
    """
    heading = f"<h1>{escape(report.policy)} at {escape(report.url)}</h1>"
    parts = [heading, f"<p>{escape(describe(report))}</p>"]
    parts.append(_items([*verdicts(report), *(f"Note: {note}" for note in report.notes)]))
    for title, table in sections(report):
        parts.append(f"<h2>{escape(title)}</h2>{_table(table)}")
    for title, svg in drawings.items():
        parts.append(f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>")
    title = escape(f"Load test of {report.policy}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _items(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _table(table: Sequence[Sequence[str]]) -> str:
    head, *rows = table
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<div><table><tr>{cells}</tr>{body}</table></div>"
