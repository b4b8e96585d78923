"""Candidates played and scored: what the accept gate and the search have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import CheckFailedError
from slimq.core.manifest import PolicyManifest
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.qfunction import QFunction
from slimq.environments.rollout import play_episodes
from slimq.evaluation.returns import require_finite
from slimq.evaluation.statistics import mean_interval
from slimq_compression.context import Progress


@dataclass(frozen=True)
class Score:
    """Returns on the scale where 0 is random play and 1 is the baseline.

    Attributes:
        mean: of the candidate.
        low: lower 95 % bound of the paired difference to the baseline.
    """

    mean: float
    low: float

    @property
    def loss(self) -> float:
        """What is lost; 0 where the candidate happens to be better."""
        return max(0.0, 1.0 - self.mean)


def load_candidate(manifest: PolicyManifest, model: bytes, name: str) -> QFunction:
    """A model as a Q-function that refuses Q-values that are not finite.

    Raises:
        RepositoryError: it does not load, or has another signature.
    """
    return require_finite(open_candidate(manifest, model, name), f"{manifest.name}/{name}")


def open_candidate(manifest: PolicyManifest, model: bytes, name: str) -> OnnxPolicy:
    """A model as it is, whatever Q-values it gives.

    Raises:
        RepositoryError: it does not load, or has another signature.
    """
    label = f"{manifest.name}/{name}"
    return OnnxPolicy(model, manifest.observation, len(manifest.actions), label)


def play_returns(
    environment: EnvironmentSpec,
    policy: QFunction,
    seeds: Sequence[int],
    label: str,
    progress: Progress,
) -> list[float]:
    """The return of one episode for each seed, in the order of the seeds."""
    returns: dict[int, float] = {}
    with progress(label, len(seeds), "episode") as bar:
        for episode in play_episodes(environment, policy, seeds):
            returns[episode.seed] = episode.return_
            mean = np.mean(list(returns.values()))
            bar.set_postfix_str(f"mean return {mean:.2f}", refresh=False)
            bar.update(1)
    return [returns[seed] for seed in seeds]


def scale_over_random(reference: Sequence[float], random: float, place: str) -> float:
    """How much better the full policy's mean return is than random play's.

    Raises:
        CheckFailedError: it is no better, so there is no scale; `place` is who asks.
    """
    scale = float(np.mean(reference)) - random
    if scale <= 0:
        problem = f"the full policy returns {np.mean(reference):g}, random play {random:g}"
        raise CheckFailedError(f"{place}: {problem}; there is nothing to keep")
    return scale


def score_returns(
    returns: Sequence[float], reference: Sequence[float], random: float, place: str
) -> Score:
    """Compares a candidate's returns with the baseline's on the same seeds.

    Args:
        returns: of the candidate, by seed in order.
        reference: of the baseline on the same seeds.
        random: mean return of random play.
        place: who asks.

    Raises:
        CheckFailedError: the baseline is no better than random, so there is no scale.
    """
    scale = scale_over_random(reference, random, place)
    differences = (np.asarray(returns) - np.asarray(reference)) / scale
    return Score((float(np.mean(returns)) - random) / scale, mean_interval(differences).low)
