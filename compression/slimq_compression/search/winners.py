"""Publishes a search's best trials, trained in full and judged by the accept gate.

Trials get only a short training. A winner is trained in full, must pass the accept gate on seeds
that the search has not used, and its recipe is saved, so that `slimq compress` can reproduce it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
import torch
from optuna.trial import FixedTrial

from slimq.core.atomic import write_atomically
from slimq.core.errors import ConfigError, SlimqError
from slimq.core.manifest import SearchRecord
from slimq.core.repository import Repository
from slimq.core.toml_files import parse_toml, read_toml
from slimq_compression.compress import Outcome, compress
from slimq_compression.context import Progress, ignore, silent
from slimq_compression.pipeline import OnStep
from slimq_compression.recipe import Recipe
from slimq_compression.resume import StepStore
from slimq_compression.search.run import Found, ranking, record_of
from slimq_compression.search.sampled import SampledSpace
from slimq_compression.search.stages import Reference
from slimq_compression.search.study import SearchSettings
from slimq_compression.source import load_source

MAX_ATTEMPTS = 3
"""Maximum full training runs per requested variant."""
NEAR_BEST = 0.1
"""Trials within this loss of the best are retried with other seeds before worse ones are tried."""


@dataclass(frozen=True)
class Winner:
    """A trial that was trained in full.

    Attributes:
        found: the trial.
        seed: seed of its recipe.
        recipe: recipe file; None if refused.
        outcome: outcome of compressing; None if refused.
        refused: the reason if it was refused; empty if accepted.
    """

    found: Found
    seed: int
    recipe: Path | None
    outcome: Outcome | None
    refused: str


def publish_winners(
    settings: SearchSettings,
    study: optuna.Study,
    count: int,
    recipes: Path,
    *,
    effort: float = 1.0,
    device: torch.device | None = None,
    progress: Progress = silent,
    on_step: OnStep = ignore,
) -> Iterator[Winner]:
    """Trains the best trials in full until `count` are published; yields each with its result.

    Args:
        settings: settings of the search.
        study: the study.
        count: number of variants to publish.
        recipes: folder of recipes; files go to `<recipes>/<policy>/`.
        effort: share of the full training.
        device: device to train on, by default the CPU.
        progress: opens progress bars.
        on_step: called after each step of a recipe.

    Raises:
        ConfigError: a different recipe with this name exists.
    """
    source = load_source(Repository(settings.policies), settings.policy)
    space = SampledSpace(source, settings.seed, effort)
    ranked = ranking(study, settings.margin)
    reference = Reference.model_validate(study.user_attrs["reference"])
    published: set[int] = set()
    for found, seed in attempts(ranked, settings.margin, settings.seed, MAX_ATTEMPTS * count):
        if len(published) >= count:
            return
        if found.number in published:
            continue
        recipe, text = winning_recipe(
            settings,
            space,
            found,
            effort,
            seed,
            record_of(settings, study),
            reference.final_condition_episodes,
        )
        winner = publish_winner(
            settings,
            found,
            recipe,
            text,
            recipes,
            device=device,
            progress=progress,
            on_step=on_step,
        )
        if winner.outcome is not None:
            published.add(found.number)
        yield winner


def publish_winner(
    settings: SearchSettings,
    found: Found,
    recipe: Recipe,
    text: str,
    recipes: Path,
    *,
    device: torch.device | None = None,
    progress: Progress = silent,
    on_step: OnStep = ignore,
    store: StepStore | None = None,
) -> Winner:
    """Makes a trial's variant, judges and publishes it, and saves its recipe.

    Args:
        settings: settings of the search.
        found: the trial.
        recipe: its recipe.
        text: the recipe's TOML text.
        recipes: folder of recipes; the file goes to `<recipes>/<policy>/`.
        device: device to train on, by default the CPU.
        progress: opens progress bars.
        on_step: called after each step of the recipe.
        store: store of finished training runs.

    Raises:
        ConfigError: a different recipe with this name exists.
    """
    path = recipes / settings.policy / f"{recipe.name}.toml"
    if path.exists() and not same_recipe(path, text):
        problem = "exists with different content; move it away"
        raise ConfigError(str(path), "file", problem)
    (outcome,) = compress(
        Repository(settings.policies),
        settings.policy,
        [recipe],
        device=device,
        progress=progress,
        on_step=on_step,
        store=store,
    )
    try:
        outcome.require_accepted()
    except SlimqError as error:
        return Winner(found, recipe.seed, None, None, str(error))
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    return Winner(found, recipe.seed, path, outcome, "")


def same_recipe(path: Path, text: str) -> bool:
    """Whether a recipe file equals a text, apart from the record of the search."""
    one, other = read_toml(path).values, parse_toml(text, path.name).values
    return {**one, "search": None} == {**other, "search": None}


def attempts(
    ranked: Sequence[Found], margin: float, seed: int, count: int
) -> list[tuple[Found, int]]:
    """Trials and the seeds to train them with, in the order to try them.

    Returns vary as much between seeds as between shapes, so the best trials are retried with other
    seeds before much worse ones are tried.

    Args:
        ranked: trials from `ranking`.
        margin: non-inferiority margin of undisturbed play; trials that met it in the search are
            among the best.
        seed: the first seed.
        count: maximum number of attempts.
    """
    best = min((found.loss for found in ranked), default=0.0)
    near = [found for found in ranked if found.passed(margin) or found.loss <= best + NEAR_BEST]
    others = [found for found in ranked if found not in near]
    chosen = [(found, seed + restart) for restart in range(MAX_ATTEMPTS) for found in near]
    return [*chosen, *((found, seed) for found in others)][:count]


def robust_keys(condition_episodes: int) -> dict[str, int]:
    """Keys of a gate that plays this many episodes under each condition; none if 0."""
    return {"robust": True, "condition_episodes": condition_episodes} if condition_episodes else {}


def winning_recipe(
    settings: SearchSettings,
    space: SampledSpace,
    found: Found,
    effort: float,
    seed: int,
    search: SearchRecord | None = None,
    condition_episodes: int = 0,
) -> tuple[Recipe, str]:
    """Makes a trial's recipe with a training of `effort`, and its TOML text.

    Its gate plays `condition_episodes` under each standard condition; none if 0.
    """
    proposal = space.with_training(FixedTrial(found.params), seed, effort)
    accept: dict[str, float | int | None] = {
        "episodes": settings.gate_episodes,
        "margin": settings.margin,
        **robust_keys(condition_episodes),
    }
    if settings.max_bytes is not None:
        accept["max_bytes"] = settings.max_bytes
    terms = json.dumps([found.params, accept, seed, effort], sort_keys=True)
    name = f"found-{hashlib.sha256(terms.encode()).hexdigest()[:8]}"
    recipe, text = proposal.recipe(name=name, accept=accept, search=search)
    note = (
        f"# Found by slimq search {settings.policy}, study {settings.name}, trial {found.number}.\n"
    )
    return recipe, note + text
