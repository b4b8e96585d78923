"""Draws the dashboard *Variants compared* from its queries, after real load on a real service.

    python benchmarks/dashboard.py --policy pong --variants fp32 int8 fastest tiny --shadow int8

Starts `slimq serve` with these variants and a Prometheus with the deployed rules, sends
observations of real play to each variant, and sends Prometheus the queries that Grafana would send.
Needs Debian's `prometheus`.
"""

from __future__ import annotations

import argparse
import io
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import dashboard_queries as queries
from dashboard_queries import Asked, Series
from dashboard_trial import (
    ROOT,
    TrialError,
    build_repository,
    prometheus,
    send,
    serving,
    wait_until_settled,
)
from serving_processes import ServerError
from slimq.core.errors import SlimqError
from slimq.core.repository import Repository

NAME = "variants-compared.json"
PICTURE = ROOT / "docs" / "images" / "variants-compared.png"
STEP_SECONDS = 5.0
COLUMNS = 3
UNITS = {"s": "s", "bytes": "B"}
"""Symbols of units, which follow a prefix such as µ or M."""
LABELS = {"ops": "per second", "percentunit": "share", "short": ""}
LOGARITHMIC = ("p50", "p95", "p99")
MOST_NAMES = 12
"""Maximum number of lines for a plot to have a legend."""
DOTS, COLOURS = 80, 96


def main() -> None:
    """Runs the trial and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", type=Path, default=ROOT / "policies")
    parser.add_argument("--policy", default="pong")
    parser.add_argument("--variants", nargs="+", default=["fp32", "int8", "fastest", "tiny"])
    parser.add_argument("--shadow", default="int8", help="one of them, which looks on")
    parser.add_argument("--seconds", type=float, default=120.0, help="of load")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    chosen = {"policy": options.policy, "variant": options.variants}
    try:
        with tempfile.TemporaryDirectory(prefix="slimq-dashboard-") as name:
            folder = Path(name)
            repository = build_repository(
                Repository(options.policies),
                folder / "policies",
                options.policy,
                options.variants,
                options.shadow,
            )
            with serving(repository, folder) as url, prometheus(url, folder) as source:
                began = time.time()
                sent = send(url, repository, options.policy, options.variants, options.seconds)
                wait_until_settled(source)
                draw(source, chosen, began, time.time(), options.picture)
    except (TrialError, ServerError, SlimqError) as error:
        sys.exit(str(error))
    for variant, seen in sent.items():
        print(f"{variant}: {dict(seen.statuses)}, {seen.observations} observations")
    print(f"{options.picture}: {options.picture.stat().st_size:,} bytes")


def draw(
    source: str, chosen: Mapping[str, str | Sequence[str]], start: float, end: float, path: Path
) -> None:
    """Writes a picture with the table and a plot for each other panel.

    Args:
        source: URL of the Prometheus.
        chosen: values of the dashboard's variables.
        start: start of the time range, in seconds since 1970.
        end: end of the time range.
        path: the picture.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from PIL import Image

    panels: dict[str, list[Asked]] = {}
    for asked in queries.read(NAME):
        for one in queries.expand(asked, chosen):
            panels.setdefault(one.panel, []).append(one)
    tables = [group for group in panels.values() if group[0].kind == "table"]
    plots = [group for group in panels.values() if group[0].kind != "table"]
    rows = math.ceil(len(plots) / COLUMNS)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"font.family": "DejaVu Sans", "font.size": 7, "axes.titlesize": 8}):
        figure = Figure(figsize=(5 * COLUMNS, 1.6 + 2.3 * rows), layout="constrained")
        grid = figure.add_gridspec(rows + 1, COLUMNS, height_ratios=[0.6, *[1] * rows])
        draw_table(figure.add_subplot(grid[0, :]), source, tables[0], end)
        for number, group in enumerate(plots):
            axes = figure.add_subplot(grid[1 + number // COLUMNS, number % COLUMNS])
            answers = [
                queries.ask(source, one.expression, start=start, end=end, step=STEP_SECONDS)
                for one in group
            ]
            axes.set_title(group[0].panel)
            if group[0].kind == "heatmap":
                draw_heat(axes, answers[0], start)
            else:
                draw_lines(axes, group, answers, start)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=DOTS)
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(COLOURS).save(path, optimize=True)


def draw_table(axes: Any, source: str, columns: Sequence[Asked], at: float) -> None:
    """Draws a table with a row for each variant."""
    cells: dict[str, list[str]] = {}
    for number, asked in enumerate(columns, start=1):
        for series in queries.ask_now(source, asked.expression, at):
            row = cells.setdefault(series.labels["variant"], [""] * (len(columns) + 1))
            row[0], row[number] = series.labels["variant"], show(series.values[0], asked.unit)
    axes.axis("off")
    axes.set_title(columns[0].panel)
    titles = ["variant", *(asked.column for asked in columns)]
    table = axes.table(list(cells.values()), colLabels=titles, loc="center", edges="horizontal")
    table.auto_set_font_size(value=False)
    table.set_fontsize(8)


def show(value: float, unit: str) -> str:
    """Formats a value for a table."""
    from matplotlib.ticker import EngFormatter

    if unit in UNITS:
        return EngFormatter(UNITS[unit], places=1)(value)
    if unit == "bool_yes_no":
        return "yes" if value else "no"
    return f"{value:.1%}" if unit == "percentunit" else f"{value:,.2f}"


def draw_lines(
    axes: Any, asked: Sequence[Asked], answers: Sequence[Sequence[Series]], start: float
) -> None:
    """Draws lines over the seconds since the load began, except those that are always 0."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    drawn = 0
    for one, answer in zip(asked, answers, strict=True):
        for series in sorted(answer, key=lambda series: queries.name_of(series, one.legend)):
            if any(series.values):
                times = np.array(series.times) - start
                axes.plot(times, series.values, lw=1, label=queries.name_of(series, one.legend))
                drawn += 1
    if asked[0].panel in LOGARITHMIC:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    if asked[0].unit in UNITS:
        axes.yaxis.set_major_formatter(EngFormatter(UNITS[asked[0].unit]))
    axes.set_ylabel(LABELS.get(asked[0].unit, ""))
    axes.grid(alpha=0.3)
    if 0 < drawn <= MOST_NAMES:
        axes.legend(fontsize=5, framealpha=0.5)


def draw_heat(axes: Any, answer: Sequence[Series], start: float) -> None:
    """Draws the counts of each bucket, up to the highest non-empty one."""
    from matplotlib.ticker import EngFormatter

    ordered = sorted(answer, key=lambda series: float(series.labels["le"]))
    times = np.unique(np.concatenate([series.times for series in ordered]))
    counts = np.zeros((len(ordered), len(times)))
    for row, series in enumerate(ordered):
        counts[row, np.searchsorted(times, series.times)] = series.values
    within = np.clip(np.diff(counts, axis=0, prepend=0), 0, None)
    highest = int(np.flatnonzero(within.sum(axis=1)).max(initial=0)) + 1
    axes.pcolormesh(times - start, np.arange(highest), within[:highest], cmap="Oranges")
    bounds = [EngFormatter("s")(float(series.labels["le"])) for series in ordered[:highest]]
    axes.set_yticks(range(highest), bounds)


if __name__ == "__main__":
    main()
