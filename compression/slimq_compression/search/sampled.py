"""Trials drawn by Optuna's sampler from the space of candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.trial import BaseTrial

from slimq.core.manifest import SearchRecord
from slimq.core.repository import Repository
from slimq.networks.specification import QNetworkSpec
from slimq_compression.recipe import Recipe
from slimq_compression.search.space import (
    Candidate,
    Offer,
    background_of,
    digest_of_space,
    make_recipe,
    searched_network,
    suggest,
)
from slimq_compression.search.start import enqueue_published
from slimq_compression.source import Source


@dataclass(frozen=True)
class SampledProposal:
    """A candidate with the seed and the effort of its training."""

    candidate: Candidate
    offer: Offer
    seed: int
    effort: float

    @property
    def trains(self) -> bool:
        """Whether it is trained."""
        return True

    def describe(self) -> str:
        """Short description."""
        return self.candidate.describe()

    def recipe(
        self,
        *,
        name: str,
        accept: Mapping[str, Any],
        trained: bool = True,
        search: SearchRecord | None = None,
    ) -> tuple[Recipe, str]:
        """Its recipe; see `Proposal`."""
        return make_recipe(
            self.candidate,
            self.offer,
            name=name,
            seed=self.seed,
            effort=self.effort if trained else 0.0,
            accept=accept,
            search=search,
        )


class SampledSpace:
    """Draws candidates.

    Raises:
        RepositoryError: the policy is kept as a graph.
        InvalidInputError: its network is not a plain chain of layers.
    """

    drops_early = True

    def __init__(self, source: Source, seed: int, effort: float) -> None:
        self.network: QNetworkSpec = searched_network(source)
        self.offer, self.background = Offer.current(), background_of(source.calibration)
        self.policy, self.seed, self.effort = source.manifest.name, seed, effort
        self.stacked = source.manifest.observation.stack is not None

    @property
    def digest(self) -> str:
        """Digest of the choices of a trial and of the training of candidates."""
        return digest_of_space(self.offer)

    @property
    def terms(self) -> dict[str, Any]:
        """The techniques that it offers, for the study to record."""
        offered = asdict(self.offer).items()
        return {name: list(v) if isinstance(v, tuple) else v for name, v in offered}

    def prepare(self, study: optuna.Study, repository: Repository) -> None:
        """Enqueues the policy's published students."""
        enqueue_published(study, repository, self.policy, self.network, self.offer, self.background)

    def next_trial(self, study: optuna.Study, seconds: float) -> optuna.Trial | None:
        """The next trial if any time is left; a trial that has begun is always finished."""
        return study.ask() if seconds > 0 else None

    def suggest(self, trial: BaseTrial) -> SampledProposal:
        """Draws a candidate, or takes the one that the trial already has."""
        return self.with_training(trial, self.seed, self.effort)

    def with_training(self, trial: BaseTrial, seed: int, effort: float) -> SampledProposal:
        """A trial's candidate with another seed or effort."""
        candidate = suggest(trial, self.network, self.offer, self.background, stacked=self.stacked)
        return SampledProposal(candidate, self.offer, seed, effort)
