"""Proposals of trials: the seam between the ways to choose them and the engine that runs them."""

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
        """Its recipe, and the TOML text of that.

        Args:
            name: name of the variant.
            accept: keys of the accept gate.
            trained: whether to train it; otherwise only its size and its latency are meant.
            search: the search that found it.

        Raises:
            ConfigError: a pass refuses its parameters.
        """
        ...


class Space(Protocol):
    """A way to choose trials."""

    @property
    def digest(self) -> str:
        """Digest of everything that gives a trial's parameters their meaning."""
        ...

    @property
    def drops_early(self) -> bool:
        """Whether a trial that misses a limit, or lags behind the others, is dropped early."""
        ...

    @property
    def terms(self) -> dict[str, Any]:
        """The terms of its offer, for a study to record."""
        ...

    def prepare(self, study: optuna.Study, repository: Repository) -> None:
        """Adds the trials to begin with."""
        ...

    def next_trial(self, study: optuna.Study, seconds: float) -> optuna.Trial | None:
        """The next trial; None if there is none that may fit `seconds`."""
        ...

    def suggest(self, trial: BaseTrial) -> Proposal:
        """The proposal of a trial, which has the trial's parameters."""
        ...


def write_recipe(
    head: Mapping[str, Any], search: SearchRecord | None, **tables: Any
) -> tuple[Recipe, str]:
    """A recipe and its TOML text.

    Args:
        head: the keys of its top level, `name` among them.
        search: the search that found it.
        tables: its tables; empty ones are left out.

    Raises:
        ConfigError: a pass refuses its parameters.
    """
    given = {"search": search and search.model_dump(), **tables}
    text = tomli_w.dumps({**head, **{name: table for name, table in given.items() if table}})
    return parse_recipe(text, f"{head['name']}.toml"), text
