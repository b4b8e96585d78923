"""Proposals of trials: the interface between strategies that choose trials and their engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import optuna
import tomli_w
from optuna.trial import BaseTrial

from slimq.core.manifest import SearchRecord
from slimq.core.repository import Repository
from slimq_compression.recipe import Recipe, parse_recipe


class Proposal(Protocol):
    """A variant to make."""

    @property
    def trains(self) -> bool:
        """Whether it is trained; otherwise it is finished at once."""
        ...

    def describe(self) -> str:
        """Short description."""
        ...

    def recipe(
        self,
        *,
        name: str,
        accept: Mapping[str, Any],
        trained: bool = True,
        search: SearchRecord | None = None,
    ) -> tuple[Recipe, str]:
        """The variant's recipe and its TOML text.

        Args:
            name: name of the variant.
            accept: keys of the accept gate.
            trained: whether to train it; False for a recipe that only shows size and latency.
            search: the search that found it.

        Raises:
            ConfigError: a pass refuses its parameters.
        """
        ...


class Space(Protocol):
    """A strategy that chooses trials."""

    @property
    def digest(self) -> str:
        """Digest of everything that gives a trial's parameters their meaning."""
        ...

    @property
    def drops_early(self) -> bool:
        """Whether trials that miss a limit or lag behind the others are dropped early."""
        ...

    @property
    def terms(self) -> dict[str, Any]:
        """The settings of the strategy, for the study to record."""
        ...

    def prepare(self, study: optuna.Study, repository: Repository) -> None:
        """Enqueues the initial trials."""
        ...

    def next_trial(self, study: optuna.Study, seconds: float) -> optuna.Trial | None:
        """The next trial; None if none can be expected to fit `seconds`."""
        ...

    def suggest(self, trial: BaseTrial) -> Proposal:
        """The proposal for a trial's parameters."""
        ...


def write_recipe(
    head: Mapping[str, Any], search: SearchRecord | None, **tables: Any
) -> tuple[Recipe, str]:
    """A recipe and its TOML text.

    Args:
        head: the top-level keys, `name` among them.
        search: the search that found it.
        tables: the tables; empty ones are omitted.

    Raises:
        ConfigError: a pass refuses its parameters.
    """
    given = {"search": search and search.model_dump(), **tables}
    text = tomli_w.dumps({**head, **{name: table for name, table in given.items() if table}})
    return parse_recipe(text, f"{head['name']}.toml"), text
