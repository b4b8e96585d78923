"""What a dashboard asks, as its committed JSON has it, and what a Prometheus answers."""

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
"""Grafana's `$__rate_interval`: four scrapes, as provisioning/datasources has their interval."""
WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Asked:
    """One query of a panel.

    Attributes:
        panel: its title.
        kind: of the panel, such as `timeseries` or `table`.
        unit: of its values.
        expression: PromQL.
        legend: what names a series, with `{{label}}`.
        instant: whether it wants the latest values only.
        column: what a table calls it.
        repeated: the variant that this panel is for, where it is one of several.
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
    """A variable whose values Prometheus has.

    Attributes:
        name: its own.
        query: `label_values(…)` or `query_result(…)`.
        regex: finds the value in what a series is written as, "" where that is all of it.
        first: what is chosen at first: a value, several, or none where nothing says so.
    """

    name: str
    query: str
    regex: str
    first: str | Sequence[str]


@dataclass(frozen=True)
class Series:
    """A series of an answer.

    Attributes:
        labels: its own.
        times: seconds since 1970.
        values: at these times.
    """

    labels: Mapping[str, str]
    times: Sequence[float]
    values: Sequence[float]


def read(name: str) -> list[Asked]:
    """Every query of a dashboard, in its order, with the variables still in it."""
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
    """Those of a dashboard that Prometheus is asked for, in its order."""
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
    """What Grafana offers as a variable's values.

    Source: `metric_find_query.ts` of its data source for Prometheus.

    Args:
        url: of the Prometheus.
        variable: as `variables` has it.
        chosen: the values of the variables that its query names.
        start: of the time that is shown, seconds since 1970.
        end: of it.

    Raises:
        OSError: the query is refused, or nobody answers.
        ValueError: it is neither of the two kinds.
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
    """The queries that Grafana sends for one: several where its panel is repeated.

    Args:
        asked: as `read` has it.
        chosen: of every variable a value, or a list of them where several can be chosen.
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
    """A regular expression that matches these alone, as a string of PromQL has it.

    Source: `interpolateQueryExpr` of Grafana's data source for Prometheus.
    """
    escaped = [re.sub(r"[$^*{}\[\]+?.()|]", r"\\\\\g<0>", value) for value in values]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def ask(url: str, expression: str, *, start: float, end: float, step: float) -> list[Series]:
    """What a query answers over a time.

    Raises:
        OSError: it is refused, or nobody answers.
    """
    options = {"query": expression, "start": start, "end": end, "step": step}
    found = _get(f"{url}/api/v1/query_range?{urlencode(options)}")
    return [_series(row["metric"], row["values"]) for row in found["result"]]


def ask_now(url: str, expression: str, at: float | None = None) -> list[Series]:
    """What a query answers at a time, without one now. Raises as `ask`."""
    options = {"query": expression} | ({} if at is None else {"time": str(at)})
    found = _get(f"{url}/api/v1/query?{urlencode(options)}")
    if found["resultType"] == "scalar":
        return [_series({}, [found["result"]])]
    return [_series(row["metric"], [row["value"]]) for row in found["result"]]


def first_scrape(url: str) -> float:
    """When the target that was scraped longest ago was, in seconds since the epoch."""
    targets = _get(f"{url}/api/v1/targets?state=active")["activeTargets"]
    return min(_seconds(target["lastScrape"]) for target in targets)


def first_evaluation(url: str) -> float:
    """When the group of rules that was evaluated longest ago was."""
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
    """What a legend says of a series."""
    return re.sub(r"\{\{(\w+)\}\}", lambda label: series.labels.get(label[1], ""), legend)
