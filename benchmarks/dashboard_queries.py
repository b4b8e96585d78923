"""The queries of a dashboard, from its committed JSON, and Prometheus's responses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

FOLDER = Path(__file__).parents[1] / "docker" / "grafana" / "dashboards"
RATE_INTERVAL = "20s"
"""Grafana's `$__rate_interval`: four times the scrape interval in provisioning/datasources."""
WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Asked:
    """One query of a panel.

    Attributes:
        panel: the panel's title.
        kind: kind of the panel, such as `timeseries` or `table`.
        unit: unit of the values.
        expression: the query, in PromQL.
        legend: template of a series' name, with `{{label}}`.
        instant: whether only the latest values are requested.
        column: heading of the column, for a table.
        repeated: the variable by which the panel is repeated, or its value once expanded; None if
            it is not repeated.
    """

    panel: str
    kind: str
    unit: str
    expression: str
    legend: str
    instant: bool
    column: str = ""
    repeated: str | None = None


@dataclass(frozen=True)
class Variable:
    """A variable whose values come from Prometheus.

    Attributes:
        name: the variable's name.
        query: `label_values(…)` or `query_result(…)`.
        regex: extracts the value from the text of a series; "" for all of it.
        first: the initial value or values; empty if there is none.
    """

    name: str
    query: str
    regex: str
    first: str | Sequence[str]


@dataclass(frozen=True)
class Series:
    """A series of a response.

    Attributes:
        labels: the series' labels.
        times: seconds since 1970.
        values: the values at these times.
    """

    labels: Mapping[str, str]
    times: Sequence[float]
    values: Sequence[float]


def read(name: str) -> list[Asked]:
    """All queries of a dashboard, in order, with variables not yet replaced."""
    document = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    found = []
    for panel in document["panels"]:
        fields = panel.get("fieldConfig", {})
        units = {
            override["matcher"]["options"]: setting["value"]
            for override in fields.get("overrides", [])
            for setting in override["properties"]
            if setting["id"] == "unit"
        }
        columns = {
            key: title
            for change in panel.get("transformations", [])
            for key, title in change["options"].get("renameByName", {}).items()
        }
        for target in panel["targets"]:
            column = columns.get(f"Value #{target['refId']}", "")
            asked = Asked(
                panel["title"],
                panel["type"],
                units.get(column) or fields.get("defaults", {}).get("unit", ""),
                target["expr"],
                target.get("legendFormat", ""),
                target.get("instant", False),
                column,
                panel.get("repeat"),
            )
            found.append(asked)
    return found


def variables(name: str) -> list[Variable]:
    """The variables of a dashboard whose values come from Prometheus, in order."""
    document = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return [
        Variable(
            variable["name"],
            variable["query"],
            variable.get("regex", "").strip("/"),
            variable.get("current", {}).get("value", ""),
        )
        for variable in document["templating"]["list"]
        if variable["type"] == "query"
    ]


def offered(
    url: str,
    variable: Variable,
    chosen: Mapping[str, str | Sequence[str]],
    start: float,
    end: float,
) -> list[str]:
    """The values that Grafana offers for a variable.

    Source: `metric_find_query.ts` of its data source for Prometheus.

    Args:
        url: URL of the Prometheus.
        variable: a variable from `variables`.
        chosen: values of the variables that its query names.
        start: start of the time range, in seconds since 1970.
        end: end of the time range.

    Raises:
        OSError: the query fails, or there is no response.
        ValueError: the query is neither of the two kinds.
    """
    query = variable.query.replace("$__range", f"{max(1, round(end - start))}s")
    query = _insert(query, chosen)
    if found := re.fullmatch(r"label_values\((.+),\s*(\w+)\)", query):
        options = {"match[]": found[1], "start": start, "end": end}
        return sorted(_get(f"{url}/api/v1/label/{found[2]}/values?{urlencode(options)}"))
    if found := re.fullmatch(r"query_result\((.+)\)", query):
        written = [_written(series) for series in ask_now(url, found[1], end)]
        values = (re.search(variable.regex, text) for text in written)
        return sorted({value[1] for value in values if value is not None})
    raise ValueError(f"{variable.name}: unknown kind of query: {query}")


def _written(series: Series) -> str:
    labels = {name: value for name, value in series.labels.items() if name != "__name__"}
    inner = ",".join(f'{name}="{value}"' for name, value in labels.items())
    name = series.labels.get("__name__", "")
    return f"{name}{{{inner}}} {series.values[0]:g} {series.times[0] * 1000:.0f}"


def expand(asked: Asked, chosen: Mapping[str, str | Sequence[str]]) -> Iterator[Asked]:
    """Yields the queries that Grafana sends for one: several if its panel is repeated.

    Args:
        asked: a query from `read`.
        chosen: the value of each variable, or a list if several can be chosen.
    """
    if asked.repeated is None:
        yield replace(asked, expression=_insert(asked.expression, chosen))
        return
    for value in chosen[asked.repeated]:
        one = {**chosen, asked.repeated: [value]}
        title = asked.panel.replace(f"${asked.repeated}", value)
        expression = _insert(asked.expression, one)
        yield replace(asked, panel=title, expression=expression, repeated=value)


def _insert(expression: str, chosen: Mapping[str, str | Sequence[str]]) -> str:
    text = expression.replace("$__rate_interval", RATE_INTERVAL)
    for name, value in chosen.items():
        inserted = value if isinstance(value, str) else _any_of(value)
        text = re.sub(rf"\${name}\b", inserted.replace("\\", r"\\"), text)
    return text


def _any_of(values: Sequence[str]) -> str:
    """A regular expression that matches only these values, escaped for a PromQL string.

    Source: `interpolateQueryExpr` of Grafana's data source for Prometheus.
    """
    escaped = [re.sub(r"[$^*{}\[\]+?.()|]", r"\\\\\g<0>", value) for value in values]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def ask(url: str, expression: str, *, start: float, end: float, step: float) -> list[Series]:
    """The result of a query over a time range.

    Raises:
        OSError: the query fails, or there is no response.
    """
    options = {"query": expression, "start": start, "end": end, "step": step}
    found = _get(f"{url}/api/v1/query_range?{urlencode(options)}")
    return [_series(row["metric"], row["values"]) for row in found["result"]]


def ask_now(url: str, expression: str, at: float | None = None) -> list[Series]:
    """The result of a query at a time, by default now. Raises the errors of `ask`."""
    options = {"query": expression} | ({} if at is None else {"time": str(at)})
    found = _get(f"{url}/api/v1/query?{urlencode(options)}")
    if found["resultType"] == "scalar":
        return [_series({}, [found["result"]])]
    return [_series(row["metric"], [row["value"]]) for row in found["result"]]


def first_scrape(url: str) -> float:
    """Time of the oldest last scrape of all targets, in seconds since 1970."""
    targets = _get(f"{url}/api/v1/targets?state=active")["activeTargets"]
    return min(_seconds(target["lastScrape"]) for target in targets)


def first_evaluation(url: str) -> float:
    """Time of the oldest last evaluation of all rule groups, in seconds since 1970."""
    groups = _get(f"{url}/api/v1/rules")["groups"]
    return min(_seconds(group["lastEvaluation"]) for group in groups)


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _get(address: str) -> Any:
    with urlopen(address, timeout=WAIT_SECONDS) as answer:
        return json.load(answer)["data"]


def _series(labels: Mapping[str, str], points: Sequence[tuple[float, str]]) -> Series:
    return Series(labels, [time for time, _ in points], [float(value) for _, value in points])


def name_of(series: Series, legend: str) -> str:
    """The name of a series in a legend."""
    return re.sub(r"\{\{(\w+)\}\}", lambda label: series.labels.get(label[1], ""), legend)
