"""Lets another policy of the repository teach a recipe.

A policy that was trained under disturbances, such as sticky actions, may act better under them than
the policy being compressed. It labels states and plays the teacher's rounds in the environment of
the policy being compressed; variants are still judged against that policy. With a share below 1,
both teach: the Q-values are a weighted mean, as in the ensembles of Hinton et al. 2015
(1503.02531).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from slimq.core.errors import ConfigError, RepositoryError
from slimq.core.manifest import PolicyManifest, TeacherRecord
from slimq.core.repository import POLICY_FILE, Repository
from slimq_compression.recipe import Recipe
from slimq_compression.source import Source, Teacher, parse_full

SEEN = {"frame_skip", "size", "stack"}
"""Preprocessing keys on which observations depend; the others concern episodes."""
UNSEEN = {"ClipReward", "StickyAction", "TimeLimit"}
"""Wrappers that leave observations as they are."""


def teach(source: Source, recipe: Recipe, repository: Repository) -> Source:
    """The source with the recipe's teacher; unchanged if the recipe names none.

    Args:
        source: the policy to compress.
        recipe: the recipe.
        repository: where the teacher is.

    Raises:
        NotFoundError: there is no policy of the teacher's name; lists the available ones.
        ConfigError: it is the policy itself, or its observations or actions differ.
        RepositoryError: its checkpoint or graph is missing or invalid.
    """
    if recipe.teacher is None:
        return source
    if recipe.teacher == source.manifest.name:
        problem = "expected a policy other than the one to compress, which teaches by default"
        raise ConfigError(recipe.source, "teacher", f"{problem}, received {recipe.teacher!r}")
    manifest = repository.policy(recipe.teacher)
    _check_fit(recipe, source.manifest, manifest)
    if manifest.source is None:
        problem = "checkpoint: is null, so there is nothing to learn from; train the policy"
        raise RepositoryError(f"{manifest.name}/{POLICY_FILE}", problem)
    content = repository.read_file(manifest.name, manifest.source)
    full = parse_full(content, manifest, f"{manifest.name}/{manifest.source.path}")
    record = TeacherRecord(
        policy=manifest.name,
        checkpoint_sha256=manifest.source.sha256,
        share=recipe.teacher_share,
    )
    return replace(source, teacher=Teacher(record, full))


def _check_fit(recipe: Recipe, policy: PolicyManifest, teacher: PolicyManifest) -> None:
    """Checks that the teacher has the policy's observations and actions."""
    expected, received = _interface(policy), _interface(teacher)
    for key in [key for key in expected if key in received]:
        if expected[key] != received[key]:
            problem = f"{teacher.name} differs from {policy.name} in {key}"
            problem += f": expected {expected[key]}, received {received[key]}"
            raise ConfigError(recipe.source, "teacher", problem)


def _interface(manifest: PolicyManifest) -> dict[str, Any]:
    """The observations and actions of a policy, by manifest key.

    Without an environment, its preprocessing is unknown.
    """
    layout = manifest.observation.model_dump(mode="json")
    known: dict[str, Any] = {f"observation.{key}": value for key, value in layout.items()}
    known["actions"] = manifest.actions
    if manifest.environment is not None:
        environment = manifest.environment.model_dump(
            mode="json", include={"preprocessing": SEEN, "wrappers": True}
        )
        wrappers = [one for one in environment["wrappers"] if one["name"] not in UNSEEN]
        known["environment.preprocessing"] = environment["preprocessing"]
        known["environment.wrappers"] = wrappers
    return known
