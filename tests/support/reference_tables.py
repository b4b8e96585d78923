"""The tables of docs/configuration.md and docs/evidence.md, from what they describe.

`python tests/support/reference_tables.py` rewrites both pages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from slimq.core.conditions.catalogue import CONDITIONS, KINDS
from slimq.core.environment import AtariPreprocessing, EnvironmentSpec, WrapperSpec
from slimq.core.manifest import SearchRecord
from slimq.networks.frame_disturbance import FrameDisturbance
from slimq.networks.layers import ConvLayer, DenseLayer, ResidualLayer, ShuffleLayer, Window
from slimq.networks.specification import Atoms, ConvSpec, HeadSpec, MLPSpec, MultiInputSpec
from slimq_compression.catalogue import CATALOGUE, Phase, names
from slimq_compression.network.disturbance import Disturb
from slimq_compression.recipe import Accept, ExportParams, Frame, Store
from slimq_trainer.config import AlgorithmConfig, RunConfig, TrainConfig

DOCS = Path(__file__).parents[2] / "docs"
PAGE, EVIDENCE = DOCS / "configuration.md", DOCS / "evidence.md"
Schema = Mapping[str, Any]

TRAINING: dict[str, type[BaseModel]] = {
    "Top level": TrainConfig,
    "`[environment]`": EnvironmentSpec,
    "`[[environment.wrappers]]`": WrapperSpec,
    "`[environment.preprocessing]`": AtariPreprocessing,
    '`[network]` with `kind = "conv"`': ConvSpec,
    '`[network]` with `kind = "mlp"`': MLPSpec,
    '`[network]` with `kind = "multi"`': MultiInputSpec,
    "Convolution layer": ConvLayer,
    "Shuffle layer": ShuffleLayer,
    "Residual block": ResidualLayer,
    "Dense layer": DenseLayer,
    "`window`": Window,
    "`[head]`": HeadSpec,
    "`[head.atoms]`": Atoms,
    "`[algorithm]`": AlgorithmConfig,
    "`[algorithm.augmentation]`": FrameDisturbance,
    "`[run]`": RunConfig,
}
RECIPE: dict[str, type[BaseModel]] = {
    "Top level of a recipe": Frame,
    "`[export]`": ExportParams,
    "`[store]`": Store,
    "`[accept]`": Accept,
    "`[search]`": SearchRecord,
    "`disturb`": Disturb,
}
TITLES = {model.__name__: title for title, model in (TRAINING | RECIPE).items()}
"""Headings by the name of a model in a schema."""


def write_tables(page: str) -> str:
    """The page with the text between its markers replaced.

    Raises:
        ValueError: the page lacks a marker.
    """
    return fill(fill(page, "training keys", training()), "recipe keys", recipe())


def fill(page: str, name: str, text: str) -> str:
    """The page with the text between two markers replaced.

    Raises:
        ValueError: the page lacks a marker.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"expected {begin} and {end}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def conditions() -> str:
    """The table of conditions: what each does, its standard strengths and its limit."""
    lines = [
        "| condition | what happens at strength *s* | unit of *s* | frames | vectors | up to |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for name, row in CONDITIONS.items():
        strengths = [
            "n/a" if kind not in row.kinds else f"{row.standard.get(kind, '–')}" for kind in KINDS
        ]
        whole = "whole " if row.whole else ""
        effect, unit = row.effect.format("*s*"), f"{whole}{row.unit}"
        lines.append(f"| {' | '.join((f'`{name}`', effect, unit, *strengths, count(row.most)))} |")
    return "\n".join(lines)


def training() -> str:
    """The tables of a training configuration."""
    return "\n\n".join(section(title, model) for title, model in TRAINING.items())


def recipe() -> str:
    """The tables of a recipe, with those of every pass."""
    tables = [section(title, model) for title, model in RECIPE.items()]
    return "\n\n".join([*tables, *passes("network"), *passes("graph")])


def passes(phase: Phase) -> Iterator[str]:
    """The tables of the passes of one phase."""
    for name in names(phase):
        link = f"[What it does](method.md#{name})."
        yield section(f'`[[{phase}]]` with `pass = "{name}"`', CATALOGUE[name].params, link)


def section(title: str, model: type[BaseModel], link: str = "") -> str:
    """A heading, the model's purpose and a table of its keys."""
    purpose = (model.__doc__ or "").removeprefix("Parameters. ").partition("\n\n")[0]
    paragraph = " ".join(f"{purpose} {link}".split())
    return f"### {title}\n\n{paragraph}\n\n{table(model)}"


def table(model: type[BaseModel]) -> str:
    """One row per key: name, type with limits, default, description.

    Raises:
        ValueError: a key has no description.
    """
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    lines = ["| key | type, limits | default | description |", "| --- | --- | --- | --- |"]
    for key, field in schema.get("properties", {}).items():
        description = model.model_fields[key].description
        if not description:
            raise ValueError(f"{model.__module__}.{model.__name__}.{key} has no description")
        # A union reads `kind` first; only a convolution among layers may go without.
        tagged = key == "kind" and model is not ConvLayer
        required = tagged or key in schema.get("required", ())
        default = "required" if required else show(field.get("default"))
        cells = (f"`{key}`", kind(field, definitions), default, description)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def show(value: Any) -> str:
    """A default as TOML; a dash where the key may be left out and has none."""
    if value is None:
        return "–"
    number = isinstance(value, int) and not isinstance(value, bool)
    return f"`{value:_}`" if number else f"`{json.dumps(value, ensure_ascii=False)}`"


def kind(field: Schema, definitions: Schema) -> str:
    """The type of a value and its limits.

    Raises:
        ValueError: the page has no table for a model.
    """
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        if "properties" not in definitions[name]:
            return kind(definitions[name], definitions)
        if name not in TITLES:
            raise ValueError(f"no table for {name}")
        title = TITLES[name]
        return f"[{re.sub(r'[][`]', '', title)}](#{anchor(title)})"
    for union in ("anyOf", "oneOf"):
        if union in field:
            found = [one for one in field[union] if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(kind(one, definitions) for one in found))
    if "const" in field or "enum" in field:
        choices = field.get("enum", [field.get("const")])
        return ", ".join(show(choice) for choice in choices)
    if "prefixItems" in field:
        return f"[{', '.join(kind(one, definitions) for one in field['prefixItems'])}]"
    plain = field.get("type")
    if plain == "array":
        inner = kind(field["items"], definitions)
        return f"list{size(field, 'items')} of {inner}{'s' if inner in ('string', 'table') else ''}"
    if plain == "object":
        values = field.get("additionalProperties", True)
        of = f" of {kind(values, definitions)}" if isinstance(values, Mapping) and values else ""
        return f"table{size(field, 'keys')}{of}"
    if plain == "string":
        pattern = f" `{field['pattern']}`" if "pattern" in field else ""
        return f"string{pattern}{size(field, 'characters')}"
    return f"{plain}{limits(field)}" if plain else "any value"


def limits(field: Schema) -> str:
    """The limits of a number."""
    if "minimum" in field and "maximum" in field:
        return f" {count(field['minimum'])} to {count(field['maximum'])}"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {count(field[key])}" for key, sign in signs.items() if key in field]
    return f" {', '.join(found)}" if found else ""


def size(field: Schema, unit: str) -> str:
    """The limits of a length, in parentheses."""
    what = {"items": "Items", "keys": "Properties", "characters": "Length"}[unit]
    low, high = field.get(f"min{what}"), field.get(f"max{what}")
    if low is None and high is None:
        return ""
    if high is None:
        return f" (at least {low})"
    return f" ({f'{low} to' if low else 'at most'} {count(high)} {unit})"


def count(number: float) -> str:
    """A limit with separated thousands, without needless decimals."""
    return f"{int(number):,}" if number == int(number) else f"{number:g}"


def anchor(title: str) -> str:
    """The anchor of a heading on GitHub."""
    return re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-")


def main() -> None:
    """Rewrites the pages."""
    PAGE.write_text(write_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    evidence = fill(EVIDENCE.read_text(encoding="utf-8"), "conditions", conditions())
    EVIDENCE.write_text(evidence, encoding="utf-8")


if __name__ == "__main__":
    main()
