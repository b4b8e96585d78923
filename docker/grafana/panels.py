"""Builders for the kinds of panels in the dashboards, with the settings shared by each kind.

A panel is 8 rows high; a dashboard is 24 columns wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import (
    LegendDisplayMode,
    LegendPlacement,
    ScaleDistribution,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = models.DataSourceRef(type_val="prometheus", uid="slimq-prometheus")
"""The data source in provisioning/datasources/prometheus.yml."""
HEIGHT = 8
SECONDS, BYTES, SHARE, NUMBER = "s", "bytes", "percentunit", "short"
RATE, RATIO = "ops", "none"
YES_NO = "bool_yes_no"
FROM_BUCKETS = "Estimated from histogram buckets: may be off by up to a factor of 2."
"""Caveat of every quantile."""
WHOSE = (
    "Server-side: overloaded, deadline, closing, repository, non-finite-q-values, internal. All"
    " other codes mean an invalid request, or a client that has disconnected."
)
"""Server-side and client errors of act requests, as in variant:slimq_failures:ratio5m."""
_REFS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Panel = Builder[models.Panel]


@dataclass(frozen=True)
class Query:
    """A PromQL query and the legend of its series, with Grafana's `{{label}}` placeholders."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Column:
    """A column of a table: a query with one value per variant."""

    title: str
    unit: str
    expression: str
    decimals: int | None = None


def lines(
    title: str,
    unit: str,
    *queries: Query,
    width: int = 12,
    description: str = "",
    stacked: bool = False,
    logarithmic: bool = False,
    repeat: str | None = None,
) -> Panel:
    """A time series panel; with `repeat`, one for each value of a variable."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .height(HEIGHT)
        .span(width)
        .line_width(1)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "mean"])
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if logarithmic:
        scale = common.ScaleDistributionConfig().type(ScaleDistribution.LOG).log(2)
        panel.scale_distribution(scale)
    else:
        panel.min(0)
    if repeat is not None:
        panel.repeat(repeat).repeat_direction("h")
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(30)
    for ref, query in zip(_REFS, queries, strict=False):
        panel.with_target(_query(ref, query))
    return panel


def heat(title: str, unit: str, expression: str, *, repeat: str, description: str = "") -> Panel:
    """A heat map of a histogram, one for each value of a variable."""
    query = Query(expression, "{{le}}")
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .height(HEIGHT)
        .span(24)
        .repeat(repeat)
        .repeat_direction("h")
        .calculate(False)
        .color(
            heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64)
        )
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .with_target(_query("A", query).format(PromQueryFormat.HEATMAP))
    )


def by_variant(title: str, columns: Sequence[Column], description: str = "") -> Panel:
    """A table with one row per variant."""
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .height(HEIGHT)
        .span(24)
        .with_transformation(models.DataTransformerConfig("merge", options={}))
    )
    names = {}
    for ref, column in zip(_REFS, columns, strict=False):
        names[f"Value #{ref}"] = column.title
        query = _query(ref, Query(column.expression, "{{variant}}"))
        panel.with_target(query.instant().format(PromQueryFormat.TABLE))
        shown = [models.DynamicConfigValue("unit", column.unit)]
        if column.decimals is not None:
            shown.append(models.DynamicConfigValue("decimals", column.decimals))
        panel.override_by_name(column.title, shown)
    order = ["variant", *(f"Value #{ref}" for ref, _ in zip(_REFS, columns, strict=False))]
    options = {
        "excludeByName": {"Time": True},
        "indexByName": {name: number for number, name in enumerate(order)},
        "renameByName": names,
    }
    return panel.with_transformation(models.DataTransformerConfig("organize", options=options))


def figure(title: str, unit: str, expression: str, *, description: str = "") -> Panel:
    """A single number, the latest value."""
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .height(4)
        .span(4)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_query("A", Query(expression, title)).instant())
    )


def chosen(
    name: str, label: str, values: str, *, several: bool = False, first: str = "", regex: str = ""
) -> Builder[models.VariableModel]:
    """A variable whose values come from Prometheus.

    Args:
        name: name of the variable.
        label: label shown in front of it.
        values: `label_values(…)`, or `query_result(…)` with a regex.
        several: allow several values; initially all are selected.
        first: value that is initially selected, if it exists.
        regex: extracts the value from a series printed by `query_result`.
    """
    variable = (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(values)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )
    if regex:
        variable.regex(f"/{regex}/")
    if first:
        variable.current(models.VariableOption(selected=True, text=first, value=first))
    if several:
        variable.multi(True).include_all(True)
        variable.current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))
    return variable


def one_of(name: str, label: str, values: Mapping[str, str]) -> Builder[models.VariableModel]:
    """A variable with fixed values by display name; the first one is initially selected."""
    text, value = next(iter(values.items()))
    return (
        dashboard.CustomVariable(name)
        .label(label)
        .values(",".join(f"{text} : {value}" for text, value in values.items()))
        .current(models.VariableOption(selected=True, text=text, value=value))
    )


def _query(ref: str, query: Query) -> prometheus.Dataquery:
    return prometheus.Dataquery().ref_id(ref).expr(query.expression).legend_format(query.legend)
