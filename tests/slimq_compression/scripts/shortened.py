"""Recipes, by default all shipped ones, with little training: the model's hash and nodes, as JSON.

    python shortened.py POLICIES RECIPES [POLICY/VARIANT …]

What a recipe does in hours it does here in seconds, with the shipped network and calibration set.
Frames are not trained on at all, where no ranges of activations have to be learned.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from slimq.core.repository import Repository
from slimq_compression.pipeline import run_recipe
from slimq_compression.recipe import Recipe, Step, load_recipe
from slimq_compression.source import load_source
from slimq_compression.teaching import teach

SHORT = {"rounds": 1, "states": 64, "steps": 64, "updates": 2, "batch_size": 16, "keep_every": 1}
"""Most of each that a training gets."""


def shortened(policy: str, step: Step) -> list[Step]:
    """The step with less to do, or none."""
    if not step.name.startswith("finetune"):
        return [step]
    values = step.params.model_dump()
    if policy == "pong" and values.get("activation_bits") is None:
        return []
    fewer = {name: min(most, values[name]) for name, most in SHORT.items() if name in values}
    return [replace(step, params=step.params.model_copy(update=fewer))]


def shipped(repository: Repository) -> Iterator[str]:
    for policy in repository.policies():
        for variant in repository.variants(policy):
            yield f"{policy}/{variant}"


def find_recipe(recipes: Path, name: str) -> Recipe:
    own = recipes / f"{name}.toml"
    return load_recipe(own if own.exists() else recipes / f"{Path(name).name}.toml")


def main(policies: str, recipes: str, *names: str) -> None:
    repository = Repository(Path(policies))
    found: dict[str, Any] = {}
    for name in names or shipped(repository):
        policy, recipe = name.split("/")[0], find_recipe(Path(recipes), name)
        steps = tuple(short for step in recipe.network for short in shortened(policy, step))
        source = teach(load_source(repository, policy), recipe, repository)
        staged = run_recipe(replace(recipe, network=steps), source)
        nodes = onnx.load_model_from_string(staged.model).graph.node
        found[name] = {
            "sha256": hashlib.sha256(staged.stored).hexdigest(),
            "nodes": [node.SerializeToString(deterministic=True).hex() for node in nodes],
        }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
