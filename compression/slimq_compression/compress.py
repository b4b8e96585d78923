"""From recipe to published variant: run, judge, publish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import structlog
import torch

from slimq.core.manifest import VariantManifest
from slimq.core.publish import Publisher
from slimq.core.repository import Repository
from slimq_compression.accept import AcceptGate, Verdict
from slimq_compression.context import Progress, silent
from slimq_compression.pipeline import OnStep, ignore, is_current, load_source, run_recipe
from slimq_compression.recipe import Recipe
from slimq_compression.resume import StepStore

_log = structlog.get_logger(__name__)

Status = Literal["published", "unchanged", "staged", "refused"]


@dataclass(frozen=True)
class Outcome:
    """What became of one recipe.

    Attributes:
        status: `unchanged` where the variant was there already, `staged` in a dry run, `refused`
            where it falls short of its gate: then what was published before stays.
        manifest: of the variant.
        verdict: of the gate; None where the variant was there already.
    """

    status: Status
    manifest: VariantManifest
    verdict: Verdict | None = None

    def require_accepted(self) -> None:
        """Raises AcceptGateError if the gate refused it."""
        if self.status == "refused" and self.verdict:
            self.verdict.require(self.manifest.name)


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
    store: StepStore | None = None,
) -> list[Outcome]:
    """Makes the variants in order; each is published as soon as it is accepted.

    One that its gate refuses leaves the others to go on: a queue of them runs unattended.

    Args:
        repository: where the policy lies.
        policy: its name.
        recipes: what to make; the baseline's first where it is not there yet.
        force: make again what is there already.
        dry_run: make and judge, publish nothing.
        device: where network passes train, by default the CPU.
        progress: opens progress bars.
        on_step: called after each step.
        store: where finished network steps are kept; with `force` they are done again.

    Raises:
        NotFoundError: there is no such policy.
        RepositoryError: its checkpoint or calibration set is missing or broken.
        ConfigError: a recipe does not fit the policy's network, or the baseline is missing.
        AcceptGateError: the baseline is refused, with which the others would be compared.
    """
    source = load_source(repository, policy)
    gate = AcceptGate(source, repository, progress)
    outcomes = []
    for recipe in recipes:
        if not force and is_current(recipe, source, repository):
            _log.info("unchanged", policy=policy, variant=recipe.name)
            made = repository.variant(policy, recipe.name)
            outcomes.append(Outcome("unchanged", made))
            continue
        gate.require_baseline(recipe)
        staged = run_recipe(
            recipe,
            source,
            device=device,
            progress=progress,
            on_step=on_step,
            store=None if force else store,
        )
        verdict = gate.judge(staged, recipe.accept)
        if recipe.name == gate.baseline:
            verdict.require(recipe.name)
            gate.stage_baseline(staged.model)
        status: Status = "staged" if dry_run else "published"
        if not verdict.holds:
            status = "refused"
        elif not dry_run:
            Publisher(repository).publish_variant(staged.manifest, staged.stored)
            _log.info("published", policy=policy, variant=recipe.name, bytes=len(staged.stored))
        outcomes.append(Outcome(status, staged.manifest, verdict))
    return outcomes
