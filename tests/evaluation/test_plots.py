from __future__ import annotations

from dataclasses import replace

import pytest

from slimq.core.report import Interval
from slimq.core.robustness import Robustness
from slimq.evaluation.comparison import Comparison, ComparisonRow, LatencyRow
from slimq.evaluation.plots import ROBUST_MARKERS, _draw, _returns, draw_plots, draw_training


def row(name, size, mean, p50):
    return ComparisonRow(
        variant=name,
        bytes=size,
        smaller=1.0,
        parameters=1,
        nonzero_parameters=1,
        macs=1,
        mean=mean,
        interval=None if mean is None else Interval(low=mean - 2, high=mean + 1),
        iqm=mean,
        distinct_trajectories=None,
        difference=None,
        fidelity=None,
        latency=(LatencyRow("alone", 1, p50, 1.0), LatencyRow("interleaved", 1, p50 * 2, 1.0))
        if p50
        else (),
        notes=(),
    )


@pytest.fixture
def comparison(make_report):
    rows = (row("fp32", 6_750_000, 20.5, 500.0), row("int8", 1_690_000, 20.4, 300.0))
    protocol = make_report("fp32", [1.0]).protocol
    worse = row("worse", 2_000_000, 10.0, 600.0)
    return Comparison("pong", "fp32", -20.7, protocol, "a processor", (*rows, worse), {})


def test_return_and_latency_are_drawn_as_png_and_svg(comparison, tmp_path):
    paths = draw_plots(comparison, tmp_path / "plots")
    assert [path.name for path in paths] == [
        "pong-return.png",
        "pong-return.svg",
        "pong-latency.png",
        "pong-latency.svg",
    ]
    for path in paths[::2]:
        assert path.read_bytes().startswith(b"\x89PNG")
    for path in paths[1::2]:
        assert "<svg" in path.read_text(encoding="utf-8")


def test_the_same_comparison_gives_the_same_files(comparison, tmp_path):
    first = draw_plots(comparison, tmp_path / "a")
    second = draw_plots(comparison, tmp_path / "b")
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_unmeasured_variants_are_omitted(comparison, tmp_path):
    bare = replace(comparison, rows=(row("fp32", 100, 20.0, None), row("new", 90, None, None)))
    assert [path.name for path in draw_plots(bare, tmp_path)] == [
        "pong-return.png",
        "pong-return.svg",
    ]
    assert draw_plots(replace(comparison, rows=()), tmp_path) == []


def test_the_training_curve_is_drawn_the_same_each_time(tmp_path, policy_manifest):
    manifest = policy_manifest("tiny")
    training = manifest.training.model_copy(update={"curve": [(100, -20.0), (200, 3.5)]})
    manifest = manifest.model_copy(update={"training": training})
    first = draw_training(manifest, tmp_path / "a")
    second = draw_training(manifest, tmp_path / "b")
    assert [path.name for path in first] == ["tiny-training.png", "tiny-training.svg"]
    assert [a.read_bytes() for a in first] == [b.read_bytes() for b in second]
    bare = manifest.model_copy(update={"training": training.model_copy(update={"curve": []})})
    assert draw_training(bare, tmp_path / "c") == []


def test_where_a_variant_is_robust_the_others_are_hollow(comparison):
    verdicts = {"fp32": True, "int8": False, "worse": None}
    rows = tuple(
        replace(one, robustness=Robustness((), (), verdicts[one.variant]))
        for one in comparison.rows
    )

    def faces(shown):
        (axes,) = _draw(shown, _returns(shown), "return", log=False).axes
        handles = axes.get_legend_handles_labels()
        return {
            name: getattr(handle, "lines", [handle])[0].get_markerfacecolor()
            for handle, name in zip(*handles, strict=True)
        }

    marked = faces(replace(comparison, rows=rows))
    assert {name: marked[name] for name in ROBUST_MARKERS} == ROBUST_MARKERS
    assert (marked["fp32"], marked["int8"], marked["worse"]) == ("C0", "white", "white")
    plain = faces(comparison)
    assert ROBUST_MARKERS.keys().isdisjoint(plain)
    assert plain["int8"] == "C1"
