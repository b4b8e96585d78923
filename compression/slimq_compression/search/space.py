"""The recipes that a search looks through: what a trial may choose, and the recipe that it makes.

A candidate is a structure (the policy's own network pruned, or a fresh student that learns from it)
and a form of its weights (fp32, static int8, or few levels that are stored as codes). What the
catalogue does not hold is not offered. First convolutions have kernel 8 and stride 4 to 8, since in
networks this small the first one takes nearly all the time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from optuna.trial import BaseTrial

from slimq.networks.specification import ConvSpec, QNetworkSpec
from slimq_compression.catalogue import CATALOGUE
from slimq_compression.recipe import Recipe, parse_recipe

Kind = Literal["conv", "mlp"]

CHANNELS = (4, 32, 4)
"""Lowest, highest and step of a convolution's channels: blocks of 4 fill the kernels' registers."""
FIRST_KERNEL, FIRST_STRIDES = 8, (4, 8)
CONVOLUTIONS = (1, 3)
DENSE: Mapping[Kind, tuple[int, int]] = {"conv": (8, 128), "mlp": (4, 128)}
"""Fewest and most neurons of a hidden layer."""
MLP_LAYERS = (1, 2)
KEEP = (0.03, 1.0)
"""Least and largest share of units that pruning keeps."""
BITS: Mapping[str, tuple[int, int]] = {
    "linear": (3, 8),
    "power-of-two": (3, 5),
    "codebook": (2, 6),
}
"""Of the codes of each form of `quantize_weights`."""


@dataclass(frozen=True)
class Training:
    """The parameters of `finetune` that say how much and how."""

    rounds: int
    states: int
    keep_every: int
    updates: int
    temperature: float
    learning_rate: float
    epsilon: float
    precision: str = "fp32"

    def scaled(self, effort: float) -> Training:
        """With `effort` times the updates and steps of play, in fewer and shorter rounds."""
        rounds = max(2, round(self.rounds * math.sqrt(effort)))
        share = effort * self.rounds / rounds
        return replace(
            self,
            rounds=rounds,
            states=max(100, round(self.states * share)),
            updates=max(20, round(self.updates * share)),
        )

    def steps(self) -> dict[str, Any]:
        """The keys of a `finetune` step."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"pass": "finetune", **values, "replay_states": max(20_000, self.states)}


FULL: Mapping[Kind, Training] = {
    "conv": Training(12, 4_000, 4, 3_000, 0.02, 1e-3, 0.05, "auto"),
    "mlp": Training(8, 4_000, 1, 1_200, 0.05, 1e-3, 0.1),
}
"""What a published winner is trained with."""
SECOND = 0.5
"""Share of the training that follows once weights are on their levels."""


@dataclass(frozen=True)
class Offer:
    """What the catalogue holds of what a search could use.

    Attributes:
        structures: of `pruned` and `student`.
        weights: of `fp32`, `int8` and the forms of `quantize_weights`.
        zstd: whether recipes can store a model compressed.
    """

    structures: tuple[str, ...]
    weights: tuple[str, ...]
    zstd: bool

    @staticmethod
    def current() -> Offer:
        """What there is now."""
        levels = tuple(BITS) if {"quantize_weights", "store_weights"} <= CATALOGUE.keys() else ()
        eight = ("int8",) if "quantize_int8" in CATALOGUE else ()
        student = ("student",) if "student" in CATALOGUE else ()
        store = "store" in {field.name for field in fields(Recipe)}
        return Offer(("pruned", *student), ("fp32", *eight, *levels), store)


@dataclass(frozen=True)
class Candidate:
    """One point of the space.

    Attributes:
        kind: of the policy's network.
        structure: `pruned` or `student`.
        keep: share of units of each prunable layer, where pruned.
        convolutions: tables of the student's convolutions.
        hidden: the student's dense layers.
        weights: the form of the weights.
        bits: of their codes, where they have few levels.
    """

    kind: Kind
    structure: str
    keep: tuple[float, ...]
    convolutions: tuple[Mapping[str, int], ...]
    hidden: tuple[int, ...]
    weights: str
    bits: int | None

    def describe(self) -> str:
        """In a few words, such as `student 16k8s6 16k4s2, 32; int8`."""
        if self.structure == "pruned":
            body = f"keep {' '.join(f'{share:g}' for share in self.keep)}"
        else:
            shapes = [f"{c['channels']}k{c['kernel']}s{c['stride']}" for c in self.convolutions]
            widths = " ".join(map(str, self.hidden))
            body = ", ".join(part for part in (" ".join(shapes), widths) if part)
        weights = self.weights if self.bits is None else f"{self.weights} {self.bits} bits"
        return f"{self.structure} {body}; {weights}"


def suggest(trial: BaseTrial, network: QNetworkSpec, offer: Offer) -> Candidate:
    """What a trial chooses; each name always has the same range, whatever was chosen before."""
    kind: Kind = network.body.kind
    structure = trial.suggest_categorical("structure", offer.structures)
    keep: tuple[float, ...] = ()
    convolutions: tuple[dict[str, int], ...] = ()
    hidden: tuple[int, ...] = ()
    if structure == "pruned":
        keep = tuple(
            round(trial.suggest_float(f"keep.{index}", *KEEP, log=True), 3)
            for index in range(1, _prunable(network) + 1)
        )
    elif kind == "conv":
        count = trial.suggest_int("convolutions", *CONVOLUTIONS)
        convolutions = tuple(_convolution(trial, index) for index in range(1, count + 1))
        hidden = (trial.suggest_int("hidden.1", *DENSE["conv"], log=True),)
    else:
        count = trial.suggest_int("layers", *MLP_LAYERS)
        hidden = tuple(
            trial.suggest_int(f"hidden.{index}", *DENSE["mlp"], log=True)
            for index in range(1, count + 1)
        )
    weights = trial.suggest_categorical("weights", offer.weights)
    bits = trial.suggest_int(f"bits.{weights}", *BITS[weights]) if weights in BITS else None
    return Candidate(kind, structure, keep, convolutions, hidden, weights, bits)


def make_recipe(
    candidate: Candidate,
    offer: Offer,
    *,
    name: str,
    seed: int,
    effort: float,
    accept: Mapping[str, Any],
) -> tuple[Recipe, str]:
    """The recipe of a candidate, and its TOML text.

    Args:
        candidate: what to make.
        offer: what the catalogue holds.
        name: of the variant.
        seed: of the recipe.
        effort: share of the full training, 0 for none at all.
        accept: the keys of its gate.

    Raises:
        ConfigError: a pass of the catalogue refuses these parameters.
    """
    network: list[Mapping[str, Any]] = [_structure(candidate)]
    graph: list[Mapping[str, Any]] = []
    training = FULL[candidate.kind]
    if effort > 0:
        network.append(training.scaled(effort).steps())
    if candidate.weights == "int8":
        graph.append({"pass": "quantize_int8"})
    elif candidate.bits is not None:
        levels = {"form": candidate.weights, "bits": candidate.bits}
        network.append({"pass": "quantize_weights", **levels})
        if effort > 0:
            network.append(training.scaled(SECOND * effort).steps())
        graph.append({"pass": "store_weights", **({"zstd_aware": True} if offer.zstd else {})})
    head = {"name": name, "description": f"Found: {candidate.describe()}.", "seed": seed}
    store = {"compression": "zstd", "compact": True} if offer.zstd else {}
    text = _render(head, network, graph, {"accept": accept, "store": store})
    return parse_recipe(text, f"{name}.toml"), text


def _structure(candidate: Candidate) -> Mapping[str, Any]:
    if candidate.structure == "pruned":
        block = {"multiple_of": 4} if candidate.kind == "conv" else {}
        return {"pass": "prune_channels", "keep": candidate.keep, **block}
    convolutions = {"convolutions": candidate.convolutions} if candidate.convolutions else {}
    return {"pass": "student", **convolutions, "hidden": candidate.hidden}


def _prunable(network: QNetworkSpec) -> int:
    body = network.body
    count = len(body.convolutions) if isinstance(body, ConvSpec) else 0
    return count + len(body.hidden)


def _convolution(trial: BaseTrial, index: int) -> dict[str, int]:
    low, high, step = CHANNELS
    channels = trial.suggest_int(f"conv{index}.channels", low, high, step=step)
    if index == 1:
        stride = trial.suggest_int("conv1.stride", *FIRST_STRIDES)
        return {"channels": channels, "kernel": FIRST_KERNEL, "stride": stride}
    kernel = trial.suggest_int("conv2.kernel", 3, 4) if index == 2 else 3
    stride = trial.suggest_int(f"conv{index}.stride", 1, 2)
    return {"channels": channels, "kernel": kernel, "stride": stride}


def _render(
    head: Mapping[str, Any],
    network: Sequence[Mapping[str, Any]],
    graph: Sequence[Mapping[str, Any]],
    tables: Mapping[str, Mapping[str, Any]],
) -> str:
    """TOML text of a recipe; empty tables are left out."""
    blocks = [("", head)]
    blocks += [("[[network]]", step) for step in network]
    blocks += [("[[graph]]", step) for step in graph]
    blocks += [(f"[{name}]", table) for name, table in tables.items() if table]
    parts = [
        "\n".join([*([title] if title else []), *(f"{k} = {_toml(v)}" for k, v in table.items())])
        for title, table in blocks
    ]
    return "\n\n".join(parts) + "\n"


def _toml(value: Any) -> str:
    """A number, a string of ASCII, a list or an inline table."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value)
