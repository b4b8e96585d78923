"""From recipe to published variant: run, judge, publish."""

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
from slimq_compression.pipeline import OnStep, Source, is_current, load_source, run_recipe
from slimq_compression.recipe import Recipe
from slimq_compression.resume import StepStore

_log = structlog.get_logger(__name__)

Status = Literal["published", "unchanged", "staged", "refused", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of one recipe.

    Attributes:
        variant: its name.
        status: `unchanged` where the variant was there already, `staged` in a dry run, `refused`
            where it falls short of its gate, `failed` where it cannot be made or judged: then what
            was published before stays.
        manifest: of the variant; None where it failed.
        verdict: of the gate; None where there was nothing to judge.
        error: why it failed.
    """

    variant: str
    status: Status
    manifest: VariantManifest | None = None
    verdict: Verdict | None = None
    error: SlimqError | None = None

    def require_accepted(self) -> None:
        """Raises AcceptGateError if the gate refused it, or why it failed."""
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

    One that fails, or that its gate refuses, leaves the others to go on: a queue of them runs
    unattended. Only without a baseline nothing goes on.

    Args:
        repository: where the policy lies.
        policy: its name.
        recipes: what to make; the baseline's first where it is not there yet.
        force: make again what is there already.
        dry_run: make and judge, publish nothing.
        device: where network passes train, by default the CPU.
        progress: opens progress bars.
        on_step: called after each step.
        on_outcome: called after each recipe.
        store: where finished network steps are kept; with `force` none is taken from there.

    Raises:
        NotFoundError: there is no such policy.
        RepositoryError: its checkpoint or calibration set is missing or broken.
        AcceptGateError: the baseline is refused, with which the others would be compared.
        SlimqError: the baseline cannot be made.
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
    """What recipes of one call have in common."""

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
