"""Opens the space of trials that a search's settings select."""

from __future__ import annotations

from slimq.networks.qnetwork import QNetwork
from slimq_compression.search.ladder import FIRST_SHARE, OWN, Terms
from slimq_compression.search.proposals import Space
from slimq_compression.search.rungs import SMALLEST, LadderSpace, inner_layers, techniques_for
from slimq_compression.search.sampled import SampledSpace
from slimq_compression.search.study import SearchSettings
from slimq_compression.source import Source

BYTES_PER_WEIGHT = 1.0
"""Bytes per weight of a student stored as codes, in a file with little else."""

MIN_JUDGED = 50
"""Minimum recorded states kept from training for students to be tried."""


def open_space(settings: SearchSettings, source: Source) -> Space:
    """Opens the space.

    Raises:
        RepositoryError: the plan is `sampled`, and the policy is kept as a graph.
        InvalidInputError: the plan is `sampled`, and the network is not a plain chain of layers.
    """
    if settings.plan == "sampled":
        return SampledSpace(source, settings.seed, settings.effort)
    terms = Terms(
        techniques=techniques_for(source) if _can_judge(source) else (),
        own=OWN if inner_layers(source) else OWN[:1],
        own_codes=isinstance(source.full, QNetwork),
        seconds=60 * settings.minutes * settings.workers,
        seed=settings.seed,
        first_share=_first_share(settings, source),
    )
    return LadderSpace(source, settings.folder, terms)


def _can_judge(source: Source) -> bool:
    """Whether students can be judged on enough states that they have not learned from."""
    if source.manifest.environment is not None:
        return True
    return source.judged is not source.calibration and len(source.judged) >= MIN_JUDGED


def _first_share(settings: SearchSettings, source: Source) -> float:
    """The first share of the ladder, smaller than usual if a limit of bytes requires it."""
    if settings.max_bytes is None:
        return FIRST_SHARE
    fitting = settings.max_bytes / (BYTES_PER_WEIGHT * max(1, source.parameters))
    return max(SMALLEST, min(FIRST_SHARE, fitting))
