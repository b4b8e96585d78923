"""Shrinks a policy: climbs the ladder within a time limit and publishes what the gate accepts.

The engine is that of `slimq search`; the trials come from the ladder, are trained in full, and are
not trained again. Up to three are published, each if the gate accepts it on seeds that no trial has
used: the smallest, one that is notably faster, and the policy's own network in int8.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

from slimq.core.manifest import SearchRecord
from slimq.core.repository import Repository
from slimq_compression.context import Progress, ignore, silent
from slimq_compression.pipeline import OnStep, is_made_by
from slimq_compression.recipe import Recipe
from slimq_compression.resume import StepStore
from slimq_compression.search.ladder import EFFORTS, Rung, expected_seconds
from slimq_compression.search.run import Found, found_trials, record_of
from slimq_compression.search.rungs import (
    RungProposal,
    inner_layers,
    kind_of,
    name_of,
    rung_of,
    tried,
)
from slimq_compression.search.stages import Reference, required_agreement
from slimq_compression.search.study import SearchSettings
from slimq_compression.search.winners import Winner, publish_winner, robust_keys, same_recipe
from slimq_compression.source import Source

ATTEMPTS = 6
"""Maximum number of trials submitted to the gate for each of the variants to publish."""
FURTHER = 1.2
"""Minimum ratio of a trial's cost to that of the last refused one, for it to be tried next."""
REFUSED = "refused"
"""Study attribute that lists the trials that the accept gate refused, for later runs."""
FASTER = 0.9
"""Maximum latency, relative to the smallest variant's, of a variant published for its speed."""
RETRY = "more --minutes may find one, or a larger --max-loss allow one"


@dataclass(frozen=True)
class Limits:
    """The limits that a variant must meet besides the margin; None for no limit.

    Attributes:
        max_bytes: size on disk.
        max_latency_us: latency of a call with one observation, on this machine.
    """

    max_bytes: int | None = None
    max_latency_us: float | None = None

    def met_by(self, found: Found) -> bool:
        """Whether a trial meets them."""
        return (self.max_bytes is None or found.bytes <= self.max_bytes) and (
            self.max_latency_us is None or found.latency_us <= self.max_latency_us
        )


def acceptable(study: optuna.Study) -> list[Found]:
    """The trials that lost no more than the margin, smallest first."""
    return sorted(
        (found for found in found_trials(study) if found.acceptable),
        key=lambda found: (found.bytes, found.latency_us),
    )


def publish_smallest(
    settings: SearchSettings,
    study: optuna.Study,
    source: Source,
    limits: Limits,
    recipes: Path,
    *,
    progress: Progress = silent,
    on_step: OnStep = ignore,
) -> Iterator[Winner]:
    """Publishes the best trials; yields each attempt with its result.

    Args:
        settings: settings of the run.
        study: its study.
        source: the policy.
        limits: the limits that a variant must meet.
        recipes: folder of recipes; files go to `<recipes>/<policy>/`.
        progress: opens progress bars.
        on_step: called after each step of a recipe.

    Raises:
        ConfigError: a different recipe with the name of a variant exists.
    """
    reference = Reference.model_validate(study.user_attrs["reference"])
    store = StepStore(settings.steps)

    def publish(found: Found) -> Winner:
        recipe, text = winning_recipe(
            settings, source, found, limits, reference, recipes, record_of(settings, study)
        )
        winner = publish_winner(
            settings, found, recipe, text, recipes, progress=progress, on_step=on_step, store=store
        )
        offered.add(found.number)
        if winner.outcome is None:
            study.set_user_attr(REFUSED, [*study.user_attrs.get(REFUSED, []), found.number])
        return winner

    offered = set(study.user_attrs.get(REFUSED, []))
    fitting = [found for found in acceptable(study) if limits.met_by(found)]

    def left(chosen: Callable[[Found], bool]) -> list[Found]:
        return [found for found in fitting if found.number not in offered and chosen(found)]

    smallest = yield from _first_accepted(left(lambda _found: True), _bytes, publish)
    bound = 0.0 if smallest is None else FASTER * smallest.latency_us
    faster = left(lambda found: found.latency_us <= bound)
    yield from _first_accepted(faster, _latency, publish)
    eight = Rung("whole", form="int8", seed=settings.seed)
    whole = left(lambda found: rung_of(found.params) == eight)
    yield from _first_accepted(whole, _bytes, publish)


def _bytes(found: Found) -> float:
    return float(found.bytes)


def _latency(found: Found) -> float:
    return found.latency_us


def winning_recipe(
    settings: SearchSettings,
    source: Source,
    found: Found,
    limits: Limits,
    reference: Reference,
    recipes: Path,
    search: SearchRecord,
) -> tuple[Recipe, str]:
    """A trial's recipe, under a name that no other recipe of the policy has, and its TOML text.

    Args:
        settings: settings of the run.
        source: the policy.
        found: the trial.
        limits: the limits that the variant must meet.
        reference: the baseline's figures, which determine the episodes of the gate.
        recipes: folder of recipes.
        search: the run that found it.
    """
    accept: dict[str, float | int] = {"margin": settings.margin}
    if reference.final_episodes:
        accept["episodes"] = reference.final_episodes
        accept |= robust_keys(reference.final_condition_episodes)
    else:
        accept["agreement"] = required_agreement(settings.margin)
    if limits.max_bytes is not None:
        accept["max_bytes"] = limits.max_bytes
    rung = rung_of(found.params)
    repository = Repository(settings.policies)
    proposal = RungProposal(rung, kind_of(source), inner_layers(source))
    note = f"# Found by slimq shrink {settings.policy}, trial {found.number}.\n"
    for number in itertools.count(1):
        name = name_of(rung) if number == 1 else f"{name_of(rung)}-{number}"
        recipe, text = proposal.recipe(name=name, accept=accept, search=search)
        path = recipes / settings.policy / f"{name}.toml"
        own = not path.exists() or same_recipe(path, text)
        if own and not _is_another(repository, settings.policy, recipe):
            break
    return recipe, note + text


def _is_another(repository: Repository, policy: str, recipe: Recipe) -> bool:
    """Whether a published variant of this name was made by a different recipe."""
    if recipe.name not in repository.variants(policy):
        return False
    return not is_made_by(repository.variant(policy, recipe.name).recipe, recipe)


def explain_failure(study: optuna.Study, margin: float, limits: Limits) -> str:
    """Explains in one line why nothing could be published; names the trial that came closest."""
    passed = acceptable(study)
    if passed:
        smallest, fastest = passed[0], min(passed, key=lambda found: found.latency_us)
        near = f"the smallest, {smallest.candidate}, has {smallest.bytes:,} bytes"
        if limits.max_latency_us is not None:
            near += f"; the fastest, {fastest.candidate}, takes {fastest.latency_us:.1f} µs"
        if any(limits.met_by(found) for found in passed):
            return f"the gate refused the candidates submitted to it; {near}; {RETRY}"
        return f"no variant that loses at most {margin:.2%} meets the limits; {near}"
    done = found_trials(study)
    if not done:
        return "no trial could be made; see the log for the reasons"
    if lost := [found for found in done if found.lost is not None]:
        return _explain_lost(lost, margin)
    best = max(done, key=lambda found: found.score)
    near = f"the nearest, {best.candidate}, has a score of {best.score:.3f}"
    near += ", on a scale where random play is 0 and the full policy 1"
    return f"no variant loses at most {margin:.2%}; {near}; {RETRY}"


def _explain_lost(lost: Sequence[Found], margin: float) -> str:
    """Explains under which conditions trials failed that were within the margin undisturbed."""
    counts = Counter(str(found.lost) for found in lost)
    listing = ", ".join(f"{label} ({count})" for label, count in counts.most_common())
    said = f"no variant that loses at most {margin:.2%} undisturbed is robust"
    return (
        f"{said}; they lose too much under {listing}; --no-robust judges by undisturbed play only"
    )


def explain_time(study: optuna.Study) -> str | None:
    """Explains why no student was trained; None if one was."""
    known = tried(study)
    if not study.user_attrs.get("terms", {}).get("techniques", ["some"]):
        return "students were not tried: none is small enough, or too few states are recorded"
    trained = [one for one in known if one.rung.trains and one.passed is not None]
    if any(one.rung.effort >= EFFORTS[0] for one in trained):
        return None
    problem = "the time was too short for anything but post-training quantization"
    seconds = expected_seconds(Rung("fitted", effort=EFFORTS[0]), known)
    if not seconds:
        return problem
    return f"{problem}; a short training run takes about {seconds / 60:.1f} minutes here"


def _first_accepted(
    candidates: Sequence[Found], cost: Callable[[Found], float], publish: Callable[[Found], Winner]
) -> Generator[Winner, None, Found | None]:
    """Tries candidates, cheapest first, until one is published; returns that one.

    Candidates of nearly the same cost as a refused one are skipped.
    """
    attempts, least = 0, 0.0
    for found in sorted(candidates, key=cost):
        if attempts == ATTEMPTS:
            break
        if cost(found) < least:
            continue
        winner = publish(found)
        yield winner
        if winner.outcome is not None:
            return found
        attempts, least = attempts + 1, FURTHER * cost(found)
    return None
