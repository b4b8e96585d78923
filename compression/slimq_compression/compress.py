"""Makes variants from recipes: runs, judges and publishes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import structlog
import torch

from slimq.core.errors import ConfigError, SlimqError
from slimq.core.manifest import VariantManifest
from slimq.core.publish import Publisher
from slimq.core.repository import Repository
from slimq_compression.accept import AcceptGate, Verdict
from slimq_compression.context import Progress, ignore, silent
from slimq_compression.pipeline import OnStep, is_current, run_recipe
from slimq_compression.recipe import Recipe, load_recipe
from slimq_compression.recipe_files import FOLDER, resolve_recipe
from slimq_compression.resume import StepStore
from slimq_compression.source import Source, load_source
from slimq_compression.teaching import teach

_log = structlog.get_logger(__name__)

Status = Literal["published", "unchanged", "staged", "refused", "failed"]


@dataclass(frozen=True)
class Outcome:
    """Outcome of one recipe.

    Attributes:
        variant: the variant's name.
        status: `unchanged` if the variant was up to date, `staged` in a dry run, `refused` if it
            did not pass its gate, `failed` if it could not be made or judged. After the last two, a
            variant published earlier stays.
        manifest: the variant's manifest; None if it failed.
        verdict: the gate's verdict; None if the gate was not run.
        error: the reason why it failed.
    """

    variant: str
    status: Status
    manifest: VariantManifest | None = None
    verdict: Verdict | None = None
    error: SlimqError | None = None

    def require_accepted(self) -> None:
        """Raises AcceptGateError if the gate refused the variant, or the error if it failed."""
        if self.error is not None:
            raise self.error
        if self.status == "refused" and self.verdict:
            self.verdict.require(self.variant)


OnOutcome = Callable[[Outcome], None]


def compress(
    repository: Repository,
    policy: str,
    recipes: Sequence[Recipe],
    *,
    force: bool = False,
    dry_run: bool = False,
    device: torch.device | None = None,
    progress: Progress = silent,
    on_step: OnStep = ignore,
    on_outcome: OnOutcome = ignore,
    store: StepStore | None = None,
    folder: Path = FOLDER,
) -> list[Outcome]:
    """Makes the variants in order; each is published as soon as it is accepted.

    Where a gate compares with the baseline variant and that is missing, damaged or made from
    another checkpoint, it is made first: by its recipe in `recipes`, or else the one found by its
    name. If one fails or is refused, the others still run, so that a queue can run unattended. Only
    a failing baseline stops the queue.

    Args:
        repository: the policy's repository.
        policy: the policy's name.
        recipes: the recipes to run.
        force: remake variants that are up to date.
        dry_run: make and judge, but do not publish.
        device: device for network passes that train, by default the CPU.
        progress: opens progress bars.
        on_step: called after each step.
        on_outcome: called after each recipe.
        store: store of finished network steps; with `force` it is not read.
        folder: the working folder's recipes, searched for the baseline's.

    Returns:
        The outcomes, in the order in which they were made.

    Raises:
        NotFoundError: the policy or a recipe's teacher does not exist.
        RepositoryError: a checkpoint or the calibration set is missing or invalid.
        ConfigError: a recipe's teacher does not fit the policy.
        AcceptGateError: the baseline was refused, so the others have no reference.
        SlimqError: the baseline could not be made.
    """
    source = load_source(repository, policy)
    queue = _Queue(
        source,
        repository,
        recipes,
        force=force,
        dry_run=dry_run,
        device=device,
        progress=progress,
        on_step=on_step,
        on_outcome=on_outcome,
        store=store,
        folder=folder,
    )
    for recipe in recipes:  # fails before hours of work on others
        queue.taught(recipe)
    for recipe in recipes:
        if recipe is not queue.baseline_recipe:  # made already, before another one
            queue.run(recipe)
    return queue.outcomes


def ensure_baseline(
    repository: Repository,
    policy: str,
    *,
    device: torch.device | None = None,
    progress: Progress = silent,
    on_step: OnStep = ignore,
    on_outcome: OnOutcome = ignore,
    store: StepStore | None = None,
    folder: Path = FOLDER,
) -> Outcome | None:
    """Makes and publishes the baseline variant if there is none, as `compress` does.

    Args:
        repository: the policy's repository.
        policy: the policy's name.
        device: device for network passes that train, by default the CPU.
        progress: opens progress bars.
        on_step: called after each step.
        on_outcome: called once it is made.
        store: store of finished network steps.
        folder: the working folder's recipes, searched for the baseline's.

    Returns:
        The outcome; None if nothing had to be made.

    Raises:
        NotFoundError: the policy does not exist, or the baseline has no recipe.
        RepositoryError: its checkpoint or calibration set is missing or invalid.
        ConfigError: the baseline's recipe is invalid.
        AcceptGateError: the baseline was refused.
        SlimqError: the baseline could not be made.
    """
    source = load_source(repository, policy)
    queue = _Queue(
        source,
        repository,
        device=device,
        progress=progress,
        on_step=on_step,
        on_outcome=on_outcome,
        store=store,
        folder=folder,
    )
    queue.ensure_baseline()
    return queue.outcomes[0] if queue.outcomes else None


@dataclass
class _Queue:
    """State shared by the recipes of one call.

    Attributes:
        outcomes: outcomes so far.
        baseline_recipe: the recipe that made the baseline before another variant; None otherwise.
    """

    source: Source
    repository: Repository
    recipes: Sequence[Recipe] = ()
    force: bool = False
    dry_run: bool = False
    device: torch.device | None = None
    progress: Progress = silent
    on_step: OnStep = ignore
    on_outcome: OnOutcome = ignore
    store: StepStore | None = None
    folder: Path = FOLDER
    outcomes: list[Outcome] = field(default_factory=list)
    baseline_recipe: Recipe | None = None
    _taught: dict[tuple[str, float] | None, Source] = field(default_factory=dict)

    def taught(self, recipe: Recipe) -> Source:
        """The policy with the recipe's teacher. Raises the errors of `teach`."""
        if recipe.taught_by not in self._taught:
            self._taught[recipe.taught_by] = teach(self.source, recipe, self.repository)
        return self._taught[recipe.taught_by]

    @cached_property
    def gate(self) -> AcceptGate:
        return AcceptGate(self.source, self.repository, self.progress)

    def run(self, recipe: Recipe) -> None:
        """Makes a variant, the baseline first if needed, and reports the outcome.

        Raises:
            SlimqError: it is the baseline, which failed or was refused.
        """
        policy = self.source.manifest.name
        if not self.force and is_current(recipe, self.taught(recipe), self.repository):
            _log.info("unchanged", policy=policy, variant=recipe.name)
            made = self.repository.variant(policy, recipe.name)
            outcome = Outcome(recipe.name, "unchanged", made)
        else:
            if self.gate.needs_baseline(recipe):
                self.ensure_baseline()
            try:
                outcome = self._make(recipe)
            except SlimqError as error:
                _log.error("failed", policy=policy, variant=recipe.name, error=str(error))
                outcome = Outcome(recipe.name, "failed", error=error)
        self.on_outcome(outcome)
        self.outcomes.append(outcome)
        if recipe.name == self.gate.baseline:
            outcome.require_accepted()

    def ensure_baseline(self) -> None:
        """Makes the baseline variant if there is none to compare with.

        Raises:
            SlimqError: it has no recipe, could not be made, or was refused.
        """
        problem = self.gate.baseline_problem()
        if problem is None:
            return
        policy, baseline = self.source.manifest.name, self.gate.baseline
        _log.info("making the baseline first", policy=policy, variant=baseline, because=problem)
        recipe = next((one for one in self.recipes if one.name == baseline), None)
        if recipe is None:
            recipe = load_recipe(resolve_recipe(baseline, policy, self.folder))
            if recipe.name != baseline:
                expected = f"expected {baseline!r}, the variant to compare with"
                raise ConfigError(recipe.source, "name", f"{expected}, received {recipe.name!r}")
        self.baseline_recipe = recipe
        self.run(recipe)

    def _make(self, recipe: Recipe) -> Outcome:
        policy = self.source.manifest.name
        staged = run_recipe(
            recipe,
            self.taught(recipe),
            device=self.device,
            progress=self.progress,
            on_step=self.on_step,
            store=self.store,
            resume=not self.force,
        )
        verdict = self.gate.judge(staged, recipe.accept)
        if not verdict.holds:
            return Outcome(recipe.name, "refused", staged.manifest, verdict)
        if recipe.name == self.gate.baseline:
            self.gate.stage_baseline(staged)
        if self.dry_run:
            return Outcome(recipe.name, "staged", staged.manifest, verdict)
        Publisher(self.repository).publish_variant(staged.manifest, staged.stored)
        _log.info("published", policy=policy, variant=recipe.name, bytes=len(staged.stored))
        return Outcome(recipe.name, "published", staged.manifest, verdict)
