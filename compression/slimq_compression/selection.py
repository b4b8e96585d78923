"""Plays and scores candidates, for the accept gate and the search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import CheckFailedError
from slimq.core.manifest import PolicyManifest
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.qfunction import QFunction
from slimq.core.statistics import mean_interval
from slimq.environments.rollout import Begin, play_episodes
from slimq.evaluation.returns import require_finite
from slimq_compression.context import Progress


@dataclass(frozen=True)
class Score:
    """Score on a scale where 0 is random play and 1 is the baseline.

    Attributes:
        mean: the candidate's mean score.
        low: lower 95 % bound of the paired difference from the baseline.
        high: its upper bound.
    """

    mean: float
    low: float
    high: float

    @property
    def loss(self) -> float:
        """Loss against the baseline; 0 if the candidate is better."""
        return max(0.0, 1.0 - self.mean)


def load_candidate(manifest: PolicyManifest, model: bytes, name: str) -> QFunction:
    """Loads a model as a Q-function that raises an error on non-finite Q-values.

    Raises:
        RepositoryError: the model does not load, or has the wrong signature.
    """
    return require_finite(open_candidate(manifest, model, name), f"{manifest.name}/{name}")


def open_candidate(manifest: PolicyManifest, model: bytes, name: str) -> OnnxPolicy:
    """Loads a model without checking its Q-values.

    Raises:
        RepositoryError: the model does not load, or has the wrong signature.
    """
    label = f"{manifest.name}/{name}"
    return OnnxPolicy(model, manifest.observation, len(manifest.actions), label)


def play_returns(
    environment: EnvironmentSpec,
    policy: QFunction,
    seeds: Sequence[int],
    label: str,
    progress: Progress,
    begin: Begin | None = None,
) -> list[float]:
    """Plays one episode per seed; returns are in the order of the seeds.

    Args:
        environment: the environment to play.
        policy: the policy that plays.
        seeds: one per episode.
        label: text next to the progress bar.
        progress: opens a progress bar.
        begin: gives the passage of an episode, by seed; by default, episodes are undisturbed.
    """
    returns: dict[int, float] = {}
    with progress(label, len(seeds), "episode") as bar:
        for episode in play_episodes(environment, policy, seeds, begin=begin):
            returns[episode.seed] = episode.return_
            mean = np.mean(list(returns.values()))
            bar.set_postfix_str(f"mean return {mean:.2f}", refresh=False)
            bar.update(1)
    return [returns[seed] for seed in seeds]


def scale_over_random(reference: Sequence[float], random: float, place: str) -> float:
    """Difference between the full policy's mean return and random play's.

    Raises:
        CheckFailedError: the full policy is no better than random play; the error names `place`.
    """
    scale = float(np.mean(reference)) - random
    if scale <= 0:
        problem = f"the full policy returns {np.mean(reference):g}, random play {random:g}"
        raise CheckFailedError(
            f"{place}: {problem}; returns cannot be scaled, as nothing is gained over random play"
        )
    return scale


def score_returns(
    returns: Sequence[float], reference: Sequence[float], random: float, place: str
) -> Score:
    """Compares a candidate's returns with the baseline's on the same seeds.

    Args:
        returns: the candidate's returns, ordered by seed.
        reference: the baseline's returns on the same seeds.
        random: mean return of random play.
        place: the caller, for errors.

    Raises:
        CheckFailedError: the baseline is no better than random play, so there is no scale.
    """
    scale = scale_over_random(reference, random, place)
    interval = mean_interval((np.asarray(returns) - np.asarray(reference)) / scale)
    return Score((float(np.mean(returns)) - random) / scale, interval.low, interval.high)
