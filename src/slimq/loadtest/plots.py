"""Draws the plots of a report, as SVG."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram

from slimq.loadtest.plan import STATISTICS, Mode
from slimq.loadtest.report import Report
from slimq.loadtest.tables import TITLES

_SIZE = (7.5, 4.0)
_RC: Any = {"svg.hashsalt": "slimq", "svg.fonttype": "path", "font.family": "DejaVu Sans"}
_NINES = np.linspace(0, 4, 120)
"""Positions on an axis of nines: 1 is p90, 2 is p99, 3 is p99.9."""
_MIN_BEYOND = 10
"""Quantiles exceeded by fewer values are not drawn."""


def draw_plots(report: Report) -> dict[str, str]:
    """Draws every plot for which there are figures; SVG by title."""
    drawn: dict[str, Callable[[Any], bool]] = {
        "Latency by quantile, closed loop": lambda axes: _quantiles(axes, report, "closed"),
        "Latency by quantile, open loop": lambda axes: _quantiles(axes, report, "open"),
        "p99 by rate": lambda axes: _steps(axes, report),
        "Ratio to the baseline, with its interval": lambda axes: _ratios(axes, report),
    }
    found = {}
    for title, draw in drawn.items():
        svg = _draw(draw)
        if svg is not None:
            found[title] = svg
    return found


def _draw(draw: Callable[[Any], bool]) -> str | None:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(_RC):
        figure = Figure(figsize=_SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        if not draw(figure.add_subplot()):
            return None
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]


def _quantiles(axes: Any, report: Report, mode: Mode) -> bool:
    found = [summary for summary in report.summaries if summary.mode == mode]
    found = [summary for summary in found if summary.requests]
    for summary in found:
        histogram = HdrHistogram.decode(summary.histogram)
        last = math.log10(max(10, summary.requests / _MIN_BEYOND))
        places = _NINES[last >= _NINES]
        shares = 100 * (1 - 10.0**-places)
        values = [histogram.get_value_at_percentile(float(share)) / 1000 for share in shares]
        axes.plot(places, values, label=summary.label)
    axes.set_xticks(range(5), ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"])
    axes.set_yscale("log")
    axes.set_xlabel("percentile of requests")
    axes.set_ylabel("latency, ms")
    return _finish(axes, found)


def _steps(axes: Any, report: Report) -> bool:
    found = False
    for subject in report.plan.subjects:
        points = [
            (summary.rate, summary.quantiles_us[0.99] / 1000)
            for summary in report.summaries
            if (summary.mode, summary.label) == ("steps", subject.label) and summary.quantiles_us
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", markersize=3, label=subject.label)
            found = True
    if found:
        target = report.plan.p99_us / 1000
        axes.axhline(target, color="tab:grey", linestyle=":", label=f"target, {target:g} ms")
    axes.set_yscale("log")
    axes.set_xlabel("offered load, requests per second")
    axes.set_ylabel("p99 of answered requests, ms")
    return _finish(axes, found)


def _ratios(axes: Any, report: Report) -> bool:
    modes = [mode for mode in report.plan.modes if STATISTICS[mode]]
    rows = [(mode, statistic) for mode in modes for statistic in STATISTICS[mode]]
    others = [s.label for s in report.plan.subjects if s.label != report.plan.baseline]
    for index, label in enumerate(others):
        shift = (index - (len(others) - 1) / 2) * 0.8 / max(1, len(others))
        found = {(d.mode, d.statistic): d for d in report.differences if d.label == label}
        shown = [(place, found[row]) for place, row in enumerate(rows) if row in found]
        middles = [difference.ratio for _, difference in shown]
        errors = [
            [d.ratio - (d.low if d.low is not None else d.ratio) for _, d in shown],
            [(d.high if d.high is not None else d.ratio) - d.ratio for _, d in shown],
        ]
        axes.errorbar(
            middles,
            [place + shift for place, _ in shown],
            xerr=np.maximum(errors, 0),
            fmt="o",
            markersize=4,
            capsize=3,
            label=label,
        )
    axes.axvline(1.0, color="tab:grey", linestyle=":")
    axes.set_yticks(range(len(rows)), [f"{TITLES[name]}, {mode}" for mode, name in rows])
    axes.invert_yaxis()
    axes.set_xlabel(f"ratio to {report.plan.baseline}")
    return _finish(axes, report.differences)


def _finish(axes: Any, found: object) -> bool:
    if not found:
        return False
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(loc="best", fontsize=8)
    return True
