"""What a dashboard asks, as its committed JSON has it, and what a Prometheus answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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


def _get(address: str) -> Any:
    with urlopen(address, timeout=WAIT_SECONDS) as answer:
        return json.load(answer)["data"]


def _series(labels: Mapping[str, str], points: Sequence[tuple[float, str]]) -> Series:
    return Series(labels, [time for time, _ in points], [float(value) for _, value in points])


def name_of(series: Series, legend: str) -> str:
    """What a legend says of a series."""
    return re.sub(r"\{\{(\w+)\}\}", lambda label: series.labels.get(label[1], ""), legend)
