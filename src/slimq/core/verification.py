"""Verifies a policy in the repository: every manifest, every hash, every model's output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import numpy as np

from slimq.core.errors import RepositoryError, first_line
from slimq.core.manifest import PolicyManifest, VariantManifest, is_stale
from slimq.core.observation import Observations
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.repository import POLICY_FILE, VARIANT_FILE, VARIANTS, Repository

P = ParamSpec("P")
T = TypeVar("T")
BATCH = 32
"""States per call, so that a large calibration set needs little memory."""


def find_problems(repository: Repository, policy: str) -> list[RepositoryError]:
    """Reads all files of a policy and runs each model on the calibration states.

    Raises:
        NotFoundError: there is no such policy.
    """
    if policy in repository.incomplete():
        return [RepositoryError(policy, f"has files but no {POLICY_FILE}")]
    problems: list[RepositoryError] = []

    def attempt(read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return read(*args, **kwargs)
        except RepositoryError as problem:
            problems.append(problem)
            return None

    manifest = attempt(repository.policy, policy)
    variants = attempt(repository.variants, policy) or []
    states: Observations | None = None
    if manifest is not None:
        if (source := manifest.source) is not None:
            attempt(repository.read_file, policy, source)
        states = attempt(_read_states, repository, manifest)
        attempt(repository.held_out, manifest)
        for key, variant in _named_variants(manifest):
            if variant not in variants:
                problem = f"{key}: there is no variant {variant!r}"
                problems.append(RepositoryError(f"{policy}/{POLICY_FILE}", problem))
    for name in attempt(repository.incomplete, policy) or []:
        problem = f"has files but no {VARIANT_FILE}: publishing is in progress or was interrupted"
        problems.append(RepositoryError(f"{policy}/{VARIANTS}/{name}", problem))
    for variant in variants:
        found = attempt(repository.read_model, policy, variant)
        attempt(repository.report, policy, variant)
        if found is not None and manifest is not None:
            folder = f"{policy}/{VARIANTS}/{variant}"
            attempt(_check_parent, found[0], manifest, f"{folder}/{VARIANT_FILE}")
            attempt(_check_model, found[1], manifest, states, f"{folder}/{found[0].model.path}")
    return _distinct(problems)


def _named_variants(manifest: PolicyManifest) -> Iterator[tuple[str, str]]:
    """Yields the manifest's keys that name variants, with the variants."""
    yield "baseline_variant", manifest.baseline_variant
    yield "default_variant", manifest.default_variant
    for variant in manifest.routing.weights if manifest.routing else ():
        yield "routing.weights", variant
    if manifest.shadow:
        yield "shadow.variant", manifest.shadow.variant


def _read_states(repository: Repository, manifest: PolicyManifest) -> Observations | None:
    calibration = repository.calibration(manifest)
    return None if calibration is None else calibration.observations(manifest.observation)


def _check_parent(variant: VariantManifest, manifest: PolicyManifest, place: str) -> None:
    """Checks that a variant is not stale: retraining a policy keeps variants of the old network."""
    if is_stale(variant, manifest):
        remedy = f"run slimq compress {variant.policy} {variant.name} again"
        raise RepositoryError(place, f"was made from another checkpoint; {remedy}")


def _check_model(
    model: bytes, manifest: PolicyManifest, states: Observations | None, place: str
) -> None:
    policy = OnnxPolicy(model, manifest.observation, len(manifest.actions), place)
    if states is None:
        states = manifest.observation.zeros()
    for start in range(0, len(states), BATCH):
        try:
            q_values = policy(states[start : start + BATCH])
        except Exception as error:  # ONNX Runtime's errors have no common base class
            problem = f"does not run on the states from {start} on: {first_line(error)}"
            raise RepositoryError(place, problem) from error
        wrong = ~np.isfinite(q_values).all(axis=1)
        if wrong.any():
            state = start + int(np.argmax(wrong))
            raise RepositoryError(place, f"returns non-finite Q-values for state {state}")


def _distinct(problems: list[RepositoryError]) -> list[RepositoryError]:
    return list({str(problem): problem for problem in problems}.values())
