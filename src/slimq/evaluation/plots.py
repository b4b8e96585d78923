"""Plots of return and latency against size, and of a policy's training curve.

Equal values give equal files: no dates, no random identifiers, text drawn as paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimq.core.manifest import PolicyManifest
from slimq.core.statistics import pareto_frontier
from slimq.evaluation.comparison import Comparison, ComparisonRow

_SIZE = (7.0, 4.5)
_MARKERS = "os^Dv"
"""Markers, changed after every ten variants, when colours repeat; point labels would overlap."""
ROBUST_MARKERS = {"robust": "tab:grey", "not shown to be robust": "white"}
"""Legend entries for filled and hollow markers, shown if any variant is robust."""
_DOTS = 150
_LEGEND_ROWS, _COLUMN = 16, 1.6
"""Names per column of the legend, and the width of each additional column in inches."""
_FEW_DECADES = 300.0
"""Ratio of largest to smallest value up to which labels at 2 and 5 do not overlap."""
_RC: Any = {"svg.hashsalt": "slimq", "svg.fonttype": "path", "font.family": "DejaVu Sans"}


@dataclass(frozen=True)
class _Point:
    name: str
    bytes: int
    value: float
    low: float
    high: float
    gain: float
    robust: bool | None


def draw_plots(comparison: Comparison, folder: Path) -> list[Path]:
    """Plots return and latency against size, each as PNG and SVG.

    If any variant is robust, the markers of all others are hollow.

    Returns:
        The files written; a plot without any measured variant is omitted.
    """
    from matplotlib import rc_context

    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    with rc_context(_RC):
        for name, points, label, log in (
            ("return", _returns(comparison), "mean return per episode", False),
            ("latency", _latencies(comparison), "median time of one call, µs, batch 1", True),
        ):
            if points:
                figure = _draw(comparison, points, label, log=log)
                stem = folder / f"{comparison.policy}-{name}"
                written += _save(figure, stem)
    return written


def draw_training(manifest: PolicyManifest, folder: Path) -> list[Path]:
    """Plots the training curve: mean return on selection seeds against agent steps.

    Returns:
        The files written; none if the manifest has no curve.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    training, random = manifest.training, manifest.random_policy
    if training is None or not training.curve:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    with rc_context(_RC):
        figure = Figure(figsize=_SIZE, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.plot([step for step, _ in training.curve], [mean for _, mean in training.curve], "o-")
        if random is not None:
            axes.axhline(random.mean, color="tab:grey", linestyle=":", label="random policy")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel("agent steps")
        axes.set_ylabel("mean return on selection seeds")
        axes.set_title(
            f"{manifest.name}: {training.steps:,} agent steps, {training.updates:,} updates, "
            f"{_duration(training.seconds)} on {training.hardware}",
            fontsize=9,
        )
        axes.grid(visible=True, alpha=0.25)
        if random is not None:
            axes.legend(loc="best")
        return _save(figure, folder / f"{manifest.name}-training")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _returns(comparison: Comparison) -> list[_Point]:
    return [
        _Point(
            row.variant,
            row.bytes,
            row.mean,
            row.interval.low,
            row.interval.high,
            row.mean,
            _is_robust(row),
        )
        for row in comparison.rows
        if row.mean is not None and row.interval is not None
    ]


def _latencies(comparison: Comparison) -> list[_Point]:
    points: list[_Point] = []
    for row in comparison.rows:
        alone = row.find_latency("alone", 1)
        interleaved = row.find_latency("interleaved", 1)
        if alone and interleaved:
            ends = sorted((alone.p50_us, interleaved.p50_us))
            points.append(
                _Point(
                    row.variant,
                    row.bytes,
                    alone.p50_us,
                    ends[0],
                    ends[1],
                    -alone.p50_us,
                    _is_robust(row),
                )
            )
    return points


def _is_robust(row: ComparisonRow) -> bool | None:
    return row.robustness.robust if row.robustness else None


def _draw(comparison: Comparison, points: Sequence[_Point], label: str, *, log: bool) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, ScalarFormatter

    columns = 1 + len(points) // _LEGEND_ROWS
    width, height = _SIZE
    figure = Figure(figsize=(width + _COLUMN * (columns - 1), height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    frontier = pareto_frontier([(point.bytes, point.gain) for point in points])
    axes.plot(
        [points[i].bytes for i in frontier],
        [points[i].value for i in frontier],
        color="tab:green",
        linestyle="--",
        linewidth=1,
        label="frontier",
        zorder=1,
    )
    marked = any(point.robust for point in points)
    for index, point in enumerate(points):
        ends = [[max(0.0, point.value - point.low)], [max(0.0, point.high - point.value)]]
        axes.errorbar(
            [point.bytes],
            [point.value],
            yerr=ends,
            fmt=_MARKERS[index // 10 % len(_MARKERS)],
            color=f"C{index % 10}",
            markerfacecolor="white" if marked and not point.robust else f"C{index % 10}",
            capsize=4,
            zorder=2,
            label=point.name,
        )
    if marked:
        for meaning, face in ROBUST_MARKERS.items():
            axes.plot([], [], "o", color="tab:grey", markerfacecolor=face, label=meaning)
    axes.set_xscale("log")
    _number(axes.xaxis, EngFormatter("B"), [point.bytes for point in points])
    if log:
        axes.set_yscale("log")
        _number(axes.yaxis, ScalarFormatter(), [point.value for point in points])
    axes.set_xlabel("bytes on disk")
    axes.set_ylabel(label)
    axes.set_title(_title(comparison, latency=log), fontsize=9)
    axes.grid(visible=True, which="both", alpha=0.25)
    figure.legend(loc="outside right upper", ncols=columns)
    axes.margins(0.12)
    return figure


def _number(axis: Any, formatter: Any, values: Sequence[float]) -> None:
    """Labels a logarithmic axis with plain numbers, at 1 and, over few decades, at 2 and 5, too."""
    from matplotlib.ticker import LogLocator, NullFormatter

    many = max(values, default=1) > _FEW_DECADES * min(values, default=1)
    axis.set_major_locator(LogLocator(subs=(1.0,) if many else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(formatter)
    axis.set_minor_formatter(NullFormatter())


def _title(comparison: Comparison, *, latency: bool) -> str:
    if latency:
        where = f" on {comparison.processor}" if comparison.processor else ""
        unproven = "" if comparison.proven_in_play else " (not proven in play)"
        return f"{comparison.policy}{unproven}: point alone, bar to interleaved{where}"
    protocol = comparison.protocol
    if protocol is None:
        return f"{comparison.policy}: mean and bootstrap interval"
    return (
        f"{comparison.policy}: {protocol.environment.id}, {protocol.episodes} episodes, "
        f"ε {protocol.epsilon:g}, {protocol.confidence:.0%} interval"
    )


def _save(figure: Any, stem: Path) -> list[Path]:
    png, svg = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
    figure.savefig(png, dpi=_DOTS, metadata={"Software": None})
    figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return [png, svg]
