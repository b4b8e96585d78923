"""Roles of layers, by which recipes select layers of any architecture.

- `head`: feeds no other layer with weights; returns the Q-values, or one stream of them.
- `convolutions`, `dense`: all other layers, by kind.
- `first`: reads the observation, with no layer with weights before it; held in addition to one of
  the others.

A layer chosen by several keys of a table takes the most specific one: its own name, `head`,
`first`, its kind, `default`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from slimq.core.errors import InvalidInputError

Role = Literal["first", "convolutions", "dense", "head"]
ROLES: tuple[Role, ...] = ("first", "convolutions", "dense", "head")
DEFAULT = "default"
"""Key of a table for layers that no other key covers."""

T = TypeVar("T")
Roles = Mapping[str, Collection[Role]]
"""Each layer's roles, in order of computation."""
Table = Annotated[dict[str, T], Field(min_length=1, max_length=64)]
"""A value by role, by layer name, or for all others by `default`."""


def roles_of(
    kind: Literal["convolutions", "dense"], *, first: bool, head: bool
) -> tuple[Role, ...]:
    """The roles of one layer, the most specific first."""
    main: Role = "head" if head else kind
    return (main, "first") if head and first else ("first", main) if first else (main,)


def chosen_layers(
    wanted: Collection[str], roles: Roles, place: str, kind: str = "layers"
) -> list[str]:
    """The layers that are named or have a named role, in order of computation.

    Args:
        wanted: names of layers and roles; roles that no layer has have no effect next to others.
        roles: the layers to choose from.
        place: the parameter, such as `quantize_weights.layers`.
        kind: what the layers are called in errors.

    Raises:
        InvalidInputError: a name is neither a role nor a layer, or no layer matches.
    """
    _require_known(wanted, roles, place, kind)
    chosen = [
        name for name, own in roles.items() if name in wanted or not set(own).isdisjoint(wanted)
    ]
    if wanted and not chosen:
        present = [role for role in ROLES if any(role in own for own in roles.values())]
        expected = f"a role of the {kind} ({', '.join(present) or 'none'})"
        raise InvalidInputError(place, expected, ", ".join(map(repr, wanted)))
    return chosen


def values_by_layer(
    table: Mapping[str, T], roles: Roles, place: str, kind: str = "layers"
) -> dict[str, T]:
    """Each layer's value in a table by role or name.

    Args:
        table: values by layer name, role or `default`.
        roles: the layers, all of which need a value.
        place: the parameter, such as `quantize_weights.bits`.
        kind: what the layers are called in errors.

    Raises:
        InvalidInputError: a key is neither a role nor a layer, no layer matches, or a layer has no
            value.
    """
    keys = [key for key in table if key != DEFAULT]
    if DEFAULT in table:
        _require_known(keys, roles, place, kind)
    else:
        chosen_layers(keys, roles, place, kind)
    values = {}
    for name, own in roles.items():
        key = next((key for key in (name, *own, DEFAULT) if key in table), None)
        if key is not None:
            values[name] = table[key]
    missing = [name for name in roles if name not in values]
    if missing:
        expected = f"a value for each of the {kind}, or {DEFAULT!r} for the others"
        raise InvalidInputError(place, expected, f"none for {', '.join(missing)}")
    return values


def form_of(value: Any) -> str:
    """The form of a value, `list`, `table` or `number`, which tags a union."""
    if isinstance(value, Mapping):
        return "table"
    return "list" if isinstance(value, (list, tuple)) else "number"


def _require_known(wanted: Collection[str], roles: Roles, place: str, kind: str) -> None:
    for name in wanted:
        if name not in roles and name not in ROLES:
            expected = f"{', '.join(ROLES)} or {kind} ({', '.join(roles) or 'none'})"
            raise InvalidInputError(place, expected, repr(name))
