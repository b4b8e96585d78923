"""Settings of an evaluation, and the report built from its episodes.

Reports are also read where only `slimq[serve]` is installed, so nothing here imports gymnasium.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from slimq.core.conditions.catalogue import Condition
from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import InvalidInputError
from slimq.core.manifest import FileEntry, VariantManifest
from slimq.core.report import (
    MAX_TRAJECTORIES,
    EvaluationProtocol,
    EvaluationReport,
    Fidelity,
    LatencyReport,
)
from slimq.core.seeds import HELD_OUT, SeedRange
from slimq.core.statistics import (
    CONFIDENCE,
    RESAMPLES,
    interquartile_interval,
    interquartile_mean,
    mean_interval,
)
from slimq.evaluation.latency import ITERATIONS

if TYPE_CHECKING:
    from slimq.environments.rollout import Episode

WORK = Path("runs/evaluate")
PLAYED_WITH = ("gymnasium", "ale-py", "onnxruntime")
"""Libraries whose version may change an episode with the same model and seed."""
LatencyChoice = Literal["measure", "skip", "only"]


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of an evaluation.

    Attributes:
        episodes: episodes per variant.
        environments: number of episodes played in parallel.
        seed_range: range of the episode seeds.
        epsilon: probability of a uniformly random action.
        states: maximum number of states for fidelity.
        state_episodes: number of baseline episodes that the states come from.
        work: folder for the episodes of unfinished evaluations.
        force: evaluate again, and replace reports with more episodes.
        latency: measure latency, skip it, or measure nothing else.
        iterations: timed calls per variant, batch size and mode, in each process.
        resamples: number of bootstrap resamples.
        conditions: conditions to play under, besides undisturbed play.
        condition_episodes: episodes under each condition; None for as many as undisturbed.
    """

    episodes: int = 100
    environments: int = 16
    seed_range: SeedRange = HELD_OUT
    epsilon: float = 0.01
    resamples: int = RESAMPLES
    states: int = 2_000
    state_episodes: int = 8
    work: Path = WORK
    force: bool = False
    latency: LatencyChoice = "measure"
    iterations: int = ITERATIONS
    conditions: tuple[Condition, ...] = ()
    condition_episodes: int | None = None

    @property
    def episodes_disturbed(self) -> int:
        """Episodes under each condition."""
        return self.condition_episodes or self.episodes


def make_protocol(environment: EnvironmentSpec, settings: EvaluationSettings) -> EvaluationProtocol:
    """Builds the protocol for these settings.

    Raises:
        InvalidInputError: a setting is out of range.
    """
    check_settings(settings)
    return EvaluationProtocol(
        environment=environment,
        epsilon=settings.epsilon,
        episodes=settings.episodes,
        seed_range=settings.seed_range.name,
        first_seed=settings.seed_range.seeds(settings.episodes)[0],
        resamples=settings.resamples,
        confidence=CONFIDENCE,
        fidelity_states=settings.states,
        fidelity_episodes=settings.state_episodes,
    )


def check_settings(settings: EvaluationSettings) -> None:
    """Checks the ranges of settings.

    Raises:
        InvalidInputError: one is out of range.
    """
    for name in ("episodes", "environments", "states", "state_episodes", "resamples", "iterations"):
        value = getattr(settings, name)
        if value < 1:
            raise InvalidInputError(name, "at least 1", str(value))
    if settings.condition_episodes is not None:
        limit, received = settings.seed_range.size, str(settings.condition_episodes)
        if not 1 <= settings.condition_episodes <= limit:
            expected = f"from 1 to {limit}, the number of {settings.seed_range.name} seeds"
            raise InvalidInputError("condition_episodes", expected, received)
    if settings.latency == "only" and settings.conditions:
        received = settings.conditions[0].label
        raise InvalidInputError("conditions", "none where only latency is measured", received)
    if not 0 <= settings.epsilon <= 1:
        raise InvalidInputError("epsilon", "a number from 0 to 1", str(settings.epsilon))


def summarize(
    variant: VariantManifest,
    baseline: VariantManifest,
    protocol: EvaluationProtocol,
    episodes: Sequence[Episode],
    fidelity: Fidelity | None,
    latency: LatencyReport | None = None,
) -> EvaluationReport:
    """Builds the report from episodes in the order of the protocol's seeds."""
    returns = [episode.return_ for episode in episodes]
    trajectories = [episode.trajectory for episode in episodes]
    return EvaluationReport(
        policy=variant.policy,
        variant=variant.name,
        model_sha256=variant.model.sha256,
        baseline_variant=baseline.name,
        baseline_sha256=baseline.model.sha256,
        protocol=protocol,
        seeds=[episode.seed for episode in episodes],
        returns=returns,
        lengths=[episode.length for episode in episodes],
        trajectories=trajectories[:MAX_TRAJECTORIES],
        distinct_trajectories=len(set(trajectories)),
        mean=sum(returns) / len(returns),
        interval=mean_interval(
            returns, resamples=protocol.resamples, confidence=protocol.confidence
        ),
        iqm=interquartile_mean(returns),
        iqm_interval=interquartile_interval(
            returns, resamples=protocol.resamples, confidence=protocol.confidence
        ),
        fidelity=fidelity,
        bytes=variant.model.bytes,
        latency=latency,
        versions=library_versions(),
    )


def summarize_recorded(
    variant: VariantManifest,
    baseline: VariantManifest,
    states: FileEntry,
    fidelity: Fidelity,
    latency: LatencyReport | None = None,
) -> EvaluationReport:
    """Builds the report of a policy without an environment, from its recorded states."""
    return EvaluationReport(
        policy=variant.policy,
        variant=variant.name,
        model_sha256=variant.model.sha256,
        baseline_variant=baseline.name,
        baseline_sha256=baseline.model.sha256,
        states_sha256=states.sha256,
        fidelity=fidelity,
        bytes=variant.model.bytes,
        latency=latency,
        versions=library_versions(),
    )


def other_versions(versions: Mapping[str, str], others: Mapping[str, str]) -> list[str]:
    """The libraries of `PLAYED_WITH` whose versions differ."""
    return [name for name in PLAYED_WITH if versions.get(name) != others.get(name)]


def library_versions() -> dict[str, str]:
    """Versions of the libraries that an episode depends on."""
    versions: dict[str, str] = {}
    for name in ("slimq", "numpy", "gymnasium", "ale-py", "onnxruntime"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
