"""Reads and validates hand-written TOML files, with errors that name the place.

Mistakes raise a `ConfigError` with the file, the key, its line and, for a misspelt key, the nearest
valid one.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from slimq.core.errors import ConfigError, suggestion

T = TypeVar("T", bound=BaseModel)
Key = str | int
"""A step on the path to a value: the name of a key, or an index into an array of tables."""


@dataclass(frozen=True)
class TomlDocument:
    """The text and the values of a TOML file.

    Attributes:
        source: name of the file in errors.
        text: the text as read.
        values: the parsed tables.
    """

    source: str
    text: str
    values: dict[str, Any]

    def error(self, place: str, problem: str, keys: Sequence[Key]) -> ConfigError:
        """Creates an error about a value.

        Args:
            place: name of the value in the message.
            problem: the problem.
            keys: path to the value; the message ends with its line, or the enclosing table's.
        """
        line = self.line(keys)
        where = "" if line is None else f" (at line {line})"
        return ConfigError(self.source, place, f"{problem}{where}")

    def validate(
        self,
        model: type[T],
        values: Mapping[str, Any] | None = None,
        keys: Sequence[Key] = (),
        prefix: str = "",
    ) -> T:
        """Validates a table; a number is not a string, and `true` is not a number.

        Args:
            model: model of the table.
            values: the table's values; by default the whole document.
            keys: path to the table.
            prefix: the table's place in errors; empty for the document.

        Raises:
            ConfigError: an unknown key or an invalid value.
        """
        values = self.values if values is None else values
        try:
            return _validate(model, values)
        except ValidationError as error:
            # A misspelt key is also reported as missing; the misspelling is more helpful.
            found = [one for one in error.errors() if not _is_whole(one)]
            first = min(found, key=lambda one: one["type"] != "extra_forbidden")
            location = first["loc"]
            place = ".".join(map(str, [*([prefix] if prefix else []), *location])) or "file"
            problem = _describe(model, first, nested=bool(prefix))
            raise self.error(place, problem, [*keys, *_keys_of(values, location)]) from error

    def line(self, keys: Sequence[Key]) -> int | None:
        """The line on which a value, or else its enclosing table, begins; None for the document.

        Prefixes of the file that are valid TOML end between two statements. The value's statement
        begins after the longest such prefix that lacks the value.
        """
        keys = keys[: _depth(self.values, keys)]
        if not keys:
            return None
        begin = 0
        for count, values in self._beginnings:
            if _depth(values, keys) == len(keys):
                break
            begin = count
        return begin + 1

    @cached_property
    def _beginnings(self) -> list[tuple[int, dict[str, Any]]]:
        """For each prefix of lines that is valid TOML, its number of lines and its values."""
        lines = self.text.split("\n")
        found = []
        for count in range(1, len(lines) + 1):
            try:
                found.append((count, tomllib.loads("\n".join(lines[:count]))))
            except tomllib.TOMLDecodeError:
                continue
        return found


def read_toml(path: Path) -> TomlDocument:
    """Reads a file.

    Raises:
        ConfigError: the file is missing, or is not valid TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), "file", error.strerror or "cannot be read") from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), "syntax", str(error)) from error
    return parse_toml(text, str(path))


def parse_toml(text: str, source: str) -> TomlDocument:
    """Parses TOML.

    Args:
        text: the text.
        source: name of the text in errors.

    Raises:
        ConfigError: the text is not valid TOML.
    """
    try:
        return TomlDocument(source, text, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, "syntax", str(error)) from error


def _validate(model: type[T], values: Mapping[str, Any]) -> T:
    """Validates with pydantic's strict JSON mode, so that types are as in the file.

    By default, pydantic also reads `"1e-3"` as a number. `1e6` is accepted as an integer.
    """
    try:
        return model.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        if not all(map(_is_whole, error.errors())):
            raise
    return model.model_validate(values)


def _is_whole(found: ErrorDetails) -> bool:
    """Whether an error is about a float such as 1e6 where an integer is expected."""
    value = found["input"]
    return found["type"] == "int_type" and isinstance(value, float) and value.is_integer()


def _describe(model: type[BaseModel], found: ErrorDetails, *, nested: bool) -> str:
    """Describes one of pydantic's errors, with the received value or the nearest valid key."""
    location = found["loc"]
    if found["type"] == "missing":
        return _describe_missing(model, location, nested=nested or len(location) > 1)
    if found["type"] == "extra_forbidden":
        name = str(location[-1])
        return f"unknown key {name!r}{suggestion(name, _valid_keys(model, location[:-1]))}"
    problem = found["msg"].removeprefix("Value error, ")
    if found["type"] == "value_error" or isinstance(found["input"], Mapping):
        return problem
    return f"{problem}, received {found['input']!r}"


def _describe_missing(model: type[BaseModel], location: Sequence[Key], *, nested: bool) -> str:
    """Describes a missing key and its meaning."""
    name = str(location[-1])
    for owner in _models_at(model, location[:-1]):
        if (field := owner.model_fields.get(name)) is None:
            continue
        tables = _models_in(field.annotation)
        if len(tables) == 1 and tables[0] is field.annotation:
            required = [key for key, one in tables[0].model_fields.items() if one.is_required()]
            keys = f" with {', '.join(required)}" if required else ""
            return f"expected a table{'' if nested else f' [{name}]'}{keys}"
        if field.description:
            return f"is missing ({field.description})"
    return "is missing"


def _depth(values: Any, keys: Sequence[Key]) -> int:
    """Number of keys that exist, counted from the first one on."""
    for count, key in enumerate(keys):
        try:
            values = values[key]
        except (KeyError, IndexError, TypeError):
            return count
    return len(keys)


def _keys_of(values: Any, location: Iterable[Key]) -> list[Key]:
    """The path to a value; pydantic's location also contains the tags of unions."""
    found: list[Key] = []
    for step in location:
        if _depth(values, [step]):
            found.append(step)
            values = values[step]
    return found


def _valid_keys(model: type[BaseModel], location: Iterable[Key]) -> list[str]:
    """The valid keys of the table at a pydantic location."""
    models = _models_at(model, location)
    return list(dict.fromkeys(key for model in models for key in model.model_fields))


def _models_at(model: type[BaseModel], location: Iterable[Key]) -> list[type[BaseModel]]:
    """The models that the table at a pydantic location may have."""
    models = [model]
    for step in location:
        if isinstance(step, int):
            continue
        inner = [
            found
            for model in models
            if step in model.model_fields
            for found in _models_in(model.model_fields[step].annotation)
        ]
        models = inner or [model for model in models if step in _tags(model)]
    return models


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _tags(model: type[BaseModel]) -> set[Any]:
    """The literals that may discriminate a model within a union."""
    return {tag for field in model.model_fields.values() for tag in get_args(field.annotation)}
