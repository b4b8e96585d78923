"""Makes variants from recipes: runs, judges and publishes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import structlog
import torch

from slimq.core.errors import SlimqError
from slimq.core.manifest import VariantManifest
from slimq.core.publish import Publisher
from slimq.core.repository import Repository
from slimq_compression.accept import AcceptGate, Verdict
from slimq_compression.context import Progress, ignore, silent
from slimq_compression.pipeline import OnStep, is_current, run_recipe
from slimq_compression.recipe import Recipe
from slimq_compression.resume import StepStore
from slimq_compression.source import Source, load_source

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
) -> list[Outcome]:
    """Makes the variants in order; each is published as soon as it is accepted.

    If one fails or is refused, the others still run, so that a queue can run unattended. Only a
    failing baseline stops the queue.

    Args:
        repository: the policy's repository.
        policy: the policy's name.
        recipes: the recipes to run, the baseline's first if it is not published yet.
        force: remake variants that are up to date.
        dry_run: make and judge, but do not publish.
        device: device for network passes that train, by default the CPU.
        progress: opens progress bars.
        on_step: called after each step.
        on_outcome: called after each recipe.
        store: store of finished network steps; with `force` it is not read.

    Raises:
        NotFoundError: the policy does not exist.
        RepositoryError: its checkpoint or calibration set is missing or invalid.
        AcceptGateError: the baseline was refused, so the others have no reference.
        SlimqError: the baseline could not be made.
    """
    source = load_source(repository, policy)
    queue = _Queue(source, repository, force, dry_run, device, progress, on_step, store)
    outcomes = []
    for recipe in recipes:
        try:
            outcome = queue.make(recipe)
        except SlimqError as error:
            _log.error("failed", policy=policy, variant=recipe.name, error=str(error))
            outcome = Outcome(recipe.name, "failed", error=error)
        on_outcome(outcome)
        outcomes.append(outcome)
        if recipe.name == source.manifest.baseline_variant:
            outcome.require_accepted()
    return outcomes


@dataclass(frozen=True)
class _Queue:
    """State shared by the recipes of one call."""

    source: Source
    repository: Repository
    force: bool
    dry_run: bool
    device: torch.device | None
    progress: Progress
    on_step: OnStep
    store: StepStore | None

    @cached_property
    def gate(self) -> AcceptGate:
        return AcceptGate(self.source, self.repository, self.progress)

    def make(self, recipe: Recipe) -> Outcome:
        policy = self.source.manifest.name
        if not self.force and is_current(recipe, self.source, self.repository):
            _log.info("unchanged", policy=policy, variant=recipe.name)
            made = self.repository.variant(policy, recipe.name)
            return Outcome(recipe.name, "unchanged", made)
        self.gate.require_baseline(recipe)
        staged = run_recipe(
            recipe,
            self.source,
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
            self.gate.stage_baseline(staged.model)
        if self.dry_run:
            return Outcome(recipe.name, "staged", staged.manifest, verdict)
        Publisher(self.repository).publish_variant(staged.manifest, staged.stored)
        _log.info("published", policy=policy, variant=recipe.name, bytes=len(staged.stored))
        return Outcome(recipe.name, "published", staged.manifest, verdict)
