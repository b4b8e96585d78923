"""From a search's best trials to published variants: trained in full, judged by the accept gate.

A trial was trained a little; its recipe is made again with the full training, must pass the accept
gate on seeds that the search has not seen, and is kept as a file, so that `slimq compress` makes
the same variant again.
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

from slimq.core.errors import ConfigError, SlimqError
from slimq.core.repository import Repository
from slimq.core.toml_files import parse_toml, read_toml
from slimq_compression.compress import Outcome, compress
from slimq_compression.context import Progress, ignore, silent
from slimq_compression.pipeline import OnStep, Source, load_source
from slimq_compression.recipe import Recipe
from slimq_compression.search.run import Found, ranking
from slimq_compression.search.space import Offer, background_of, make_recipe, suggest
from slimq_compression.search.study import SearchSettings

ATTEMPTS = 3
"""Trainings in full for each variant that is wanted."""
NEAR = 0.1
"""Loss beyond the least, up to which a trial gets other seeds before those behind get one."""


@dataclass(frozen=True)
class Winner:
    """A trial that was made in full.

    Attributes:
        found: the trial.
        seed: of its recipe.
        recipe: its file; None where the gate refused it.
        outcome: of compressing; None where the gate refused it.
        refused: what the gate said, empty where it passed.
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
    """Makes the best trials in full until `count` are published; yields each as it is decided.

    Args:
        settings: of the search.
        study: what it found.
        count: how many variants to publish.
        recipes: the folder of recipes; files go to `<recipes>/<policy>/`.
        effort: share of the full training.
        device: where networks train, by default the CPU.
        progress: opens progress bars.
        on_step: called after each step of a recipe.

    Raises:
        ConfigError: a recipe of this name is there already and holds something else.
    """
    repository = Repository(settings.policies)
    source = load_source(repository, settings.policy)
    ranked = ranking(study, settings.margin)
    published: set[int] = set()
    for found, seed in attempts(ranked, settings.margin, settings.seed, ATTEMPTS * count):
        if len(published) >= count:
            return
        if found.number in published:
            continue
        recipe, text = winning_recipe(settings, source, found, effort, seed)
        path = recipes / settings.policy / f"{recipe.name}.toml"
        if path.exists() and read_toml(path).values != parse_toml(text, path.name).values:
            problem = "is there already and holds something else; move it away"
            raise ConfigError(str(path), "file", problem)
        (outcome,) = compress(
            repository,
            settings.policy,
            [recipe],
            device=device,
            progress=progress,
            on_step=on_step,
        )
        try:
            outcome.require_accepted()
        except SlimqError as error:
            yield Winner(found, seed, None, None, str(error))
            continue
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        published.add(found.number)
        yield Winner(found, seed, path, outcome, "")


def attempts(
    ranked: Sequence[Found], margin: float, seed: int, most: int
) -> list[tuple[Found, int]]:
    """Trials and the seeds to train them with, in the order in which to try them.

    Networks of one shape differ as much in play as shapes do, so the best are trained with other
    seeds before a far worse one is trained at all.

    Args:
        ranked: from `ranking`.
        margin: loss that counts as none; what held it in the search is among the best.
        seed: the first.
        most: how many to answer.
    """
    least = min((found.loss for found in ranked), default=0.0)
    near = [found for found in ranked if found.passed(margin) or found.loss <= least + NEAR]
    behind = [found for found in ranked if found not in near]
    chosen = [(found, seed + restart) for restart in range(ATTEMPTS) for found in near]
    return [*chosen, *((found, seed) for found in behind)][:most]


def winning_recipe(
    settings: SearchSettings, source: Source, found: Found, effort: float, seed: int
) -> tuple[Recipe, str]:
    """The recipe that makes a trial's variant with the training of `effort`, and its text."""
    offer, background = Offer.current(), background_of(source.calibration)
    candidate = suggest(FixedTrial(found.params), source.teacher.spec, offer, background)
    accept: dict[str, float | int] = {
        "episodes": settings.gate_episodes,
        "margin": settings.margin,
    }
    if settings.max_bytes is not None:
        accept["max_bytes"] = settings.max_bytes
    terms = json.dumps([found.params, accept, seed, effort], sort_keys=True)
    name = f"found-{hashlib.sha256(terms.encode()).hexdigest()[:8]}"
    recipe, text = make_recipe(candidate, offer, name=name, seed=seed, effort=effort, accept=accept)
    note = (
        f"# Found by slimq search {settings.policy}, study {settings.name}, trial {found.number}.\n"
    )
    return recipe, note + text
