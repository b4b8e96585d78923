"""Search space: the choices of a trial, and the recipe that they make.

A candidate has a structure (the policy's own network pruned, or a new student distilled from it)
and a weight format (fp32, static int8, or few levels stored as codes). Passes missing from the
catalogue are not offered. First convolutions of large images have kernel 8 and stride 4 to 8, since
in networks this small the first one takes nearly all the time. Students of frames may see only the
newest frames, without rows at the top and the bottom, and treat the background colour as zero:
otherwise the first thousands of updates would only remove a constant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from optuna.trial import BaseTrial

from slimq.core.calibration import CalibrationSet
from slimq.core.manifest import SearchRecord
from slimq.networks.specification import ConvSpec, QNetworkSpec
from slimq_compression.catalogue import CATALOGUE
from slimq_compression.network.units import check_plain
from slimq_compression.recipe import Recipe
from slimq_compression.search.proposals import write_recipe
from slimq_compression.search.training import FULL, REPLAY_ROUNDS, Kind
from slimq_compression.source import Source

CHANNELS = (4, 32, 4)
"""Minimum, maximum and step of a convolution's channels: blocks of 4 fill kernels' registers."""
FIRST_KERNEL, FIRST_STRIDES = 8, (4, 8)
SMALL_KERNEL, SMALL_STRIDES, SMALL_SIDE = 3, (1, 2), 20
"""First kernel and strides for images of fewer than `SMALL_SIDE` rows or columns."""
CONVOLUTIONS = (1, 3)
MIN_FRAMES = 2
"""Minimum frames that a student sees: one frame has no velocity."""
TOP, BOTTOM = (0, 0.2), (0, 0.1)
"""Minimum and maximum share of rows to crop, in steps of `ROWS`."""
ROWS = 2
DENSE: Mapping[Kind, tuple[int, int]] = {"conv": (8, 128), "mlp": (4, 128)}
"""Minimum and maximum neurons of a hidden layer."""
MLP_LAYERS = (1, 2)
KEEP = (0.03, 1.0)
"""Minimum and maximum share of units that pruning keeps."""
BITS: Mapping[str, tuple[int, int]] = {
    "linear": (3, 8),
    "power-of-two": (3, 5),
    "codebook": (2, 6),
}
"""Minimum and maximum bits per code, by form of `quantize_weights`."""
SECOND_EFFORT = 0.5
"""Effort of the second training, of quantized weights, relative to the first."""
FINE_FORMS = ("linear", "codebook")
"""Forms with levels close to all weights; large powers of two are far apart."""
ENOUGH_BITS = 4
"""Minimum bits of fine levels that need no second training, which has only harmed small students of
frames (docs/results.md)."""
HEAD_BITS, CONVOLUTION_BITS = 8, 6
"""For frames: bits of the head, and minimum bits of a student's convolutions on fine levels, since
these layers have few weights and each one matters."""


@dataclass(frozen=True)
class Offer:
    """Techniques available to the search.

    Attributes:
        structures: some of `pruned` and `student`.
        weights: some of `fp32`, `int8` and the forms of `quantize_weights`.
        zstd: whether recipes can compress the file.
    """

    structures: tuple[str, ...]
    weights: tuple[str, ...]
    zstd: bool

    @staticmethod
    def current() -> Offer:
        """The techniques in the current catalogue."""
        levels = tuple(BITS) if {"quantize_weights", "store_weights"} <= CATALOGUE.keys() else ()
        eight = ("int8",) if "quantize_int8" in CATALOGUE else ()
        student = ("student",) if "student" in CATALOGUE else ()
        store = "store" in {known.name for known in fields(Recipe)}
        return Offer(("pruned", *student), ("fp32", *eight, *levels), store)


@dataclass(frozen=True)
class Candidate:
    """One point of the space.

    Attributes:
        kind: kind of the policy's network.
        structure: `pruned` or `student`.
        keep: share of units to keep per prunable layer, if pruned.
        convolutions: tables of the student's convolutions.
        hidden: widths of the student's dense layers.
        weights: weight format.
        bits: bits per code, if weights have few levels.
        window: spans of the frames that a student sees.
        background: the pixel value that a student treats as zero.
    """

    kind: Kind
    structure: str
    keep: tuple[float, ...]
    convolutions: tuple[Mapping[str, int], ...]
    hidden: tuple[int, ...]
    weights: str
    bits: int | None
    window: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    background: int = 0

    def describe(self) -> str:
        """Short description, such as `student 16k8s6 16k4s2, 32; int8`."""
        if self.structure == "pruned":
            body = f"keep {' '.join(f'{share:g}' for share in self.keep)}"
        else:
            spans = [f"{name} {start}-{stop}" for name, (start, stop) in self.window.items()]
            shapes = [f"{c['channels']}k{c['kernel']}s{c['stride']}" for c in self.convolutions]
            widths = " ".join(map(str, self.hidden))
            body = ", ".join(part for part in (*spans, " ".join(shapes), widths) if part)
        weights = self.weights if self.bits is None else f"{self.weights} {self.bits} bits"
        return f"{self.structure} {body}; {weights}"


def digest_of_space(offer: Offer) -> str:
    """Digest of the choices of a trial and of the training of candidates."""
    ranges = (
        SMALL_KERNEL,
        SMALL_STRIDES,
        SMALL_SIDE,
        CHANNELS,
        FIRST_KERNEL,
        FIRST_STRIDES,
        CONVOLUTIONS,
        DENSE,
        MLP_LAYERS,
        KEEP,
        BITS,
    )
    window = MIN_FRAMES, TOP, BOTTOM, ROWS
    levels = SECOND_EFFORT, ENOUGH_BITS, HEAD_BITS, CONVOLUTION_BITS
    terms = repr((offer, ranges, window, FULL, levels, REPLAY_ROUNDS))
    return hashlib.sha256(terms.encode()).hexdigest()[:16]


def background_of(calibration: CalibrationSet) -> int:
    """The most frequent pixel value of frames; 0 if observations are vectors."""
    if calibration.frames.dtype != np.uint8:
        return 0
    return int(np.bincount(calibration.frames.reshape(-1), minlength=256).argmax())


def searched_network(source: Source) -> QNetworkSpec:
    """The network whose variants are searched.

    Raises:
        RepositoryError: the policy is kept as a graph.
        InvalidInputError: its network is not a plain chain of layers.
    """
    spec = source.require_network("the search").spec
    check_plain(spec, "search")
    return spec


def suggest(
    trial: BaseTrial,
    network: QNetworkSpec,
    offer: Offer,
    background: int = 0,
    *,
    stacked: bool = True,
) -> Candidate:
    """Chooses a candidate; each parameter has a fixed range, independent of earlier choices.

    Args:
        trial: the trial.
        network: the policy's network.
        offer: the available techniques.
        background: the pixel value that students of frames treat as zero.
        stacked: whether the channels of images are frames, so that the oldest can be dropped.
    """
    kind: Kind = "conv" if isinstance(network.body, ConvSpec) else "mlp"
    structure = trial.suggest_categorical("structure", offer.structures)
    keep: tuple[float, ...] = ()
    convolutions: tuple[dict[str, int], ...] = ()
    hidden: tuple[int, ...] = ()
    window: dict[str, tuple[int, int]] = {}
    if structure == "pruned":
        keep = tuple(
            round(trial.suggest_float(f"keep.{index}", *KEEP, log=True), 3)
            for index in range(1, _prunable(network) + 1)
        )
    elif kind == "conv":
        window = _window(trial, network, stacked=stacked)
        count = trial.suggest_int("convolutions", *CONVOLUTIONS)
        convolutions = _convolutions(trial, count, _size(network, window))
        hidden = (trial.suggest_int("hidden.1", *DENSE["conv"], log=True),)
    else:
        count = trial.suggest_int("layers", *MLP_LAYERS)
        hidden = tuple(
            trial.suggest_int(f"hidden.{index}", *DENSE["mlp"], log=True)
            for index in range(1, count + 1)
        )
    weights = trial.suggest_categorical("weights", offer.weights)
    bits = trial.suggest_int(f"bits.{weights}", *BITS[weights]) if weights in BITS else None
    zero = background if convolutions else 0
    return Candidate(kind, structure, keep, convolutions, hidden, weights, bits, window, zero)


def make_recipe(
    candidate: Candidate,
    offer: Offer,
    *,
    name: str,
    seed: int,
    effort: float,
    accept: Mapping[str, Any],
    search: SearchRecord | None = None,
) -> tuple[Recipe, str]:
    """Makes the recipe of a candidate, and its TOML text.

    Args:
        candidate: the candidate.
        offer: the available techniques.
        name: name of the variant.
        seed: seed of the recipe.
        effort: share of the full training; 0 for none.
        accept: keys of the accept gate.
        search: the search that found it.

    Raises:
        ConfigError: a pass refuses these parameters.
    """
    network: list[Mapping[str, Any]] = [_structure(candidate)]
    graph: list[Mapping[str, Any]] = []
    training = FULL[candidate.kind, candidate.structure]
    if effort > 0:
        network.append(training.scaled(effort).steps())
    if candidate.weights == "int8":
        graph.append({"pass": "quantize_int8"})
    elif candidate.bits is not None:
        network += _levels(candidate, candidate.bits)
        if effort > 0 and _needs_second_training(candidate):
            network.append(training.scaled(SECOND_EFFORT * effort).steps())
        graph.append({"pass": "store_weights", **({"zstd_aware": True} if offer.zstd else {})})
    head = {"name": name, "description": f"Found: {candidate.describe()}.", "seed": seed}
    store = {"compression": "zstd", "compact": True} if offer.zstd else {}
    return write_recipe(head, search, network=network, graph=graph, accept=accept, store=store)


def _levels(candidate: Candidate, bits: int) -> list[Mapping[str, Any]]:
    """The steps that round weights to levels: named layers first, then the rest."""
    step = {"pass": "quantize_weights"}
    steps: list[Mapping[str, Any]] = []
    if candidate.kind == "conv":
        steps.append({**step, "form": "linear", "bits": HEAD_BITS, "layers": ["head"]})
        convolutions = [f"conv{index + 1}" for index in range(len(candidate.convolutions))]
        if convolutions and candidate.weights in FINE_FORMS and bits < CONVOLUTION_BITS:
            form = {"form": candidate.weights, "bits": CONVOLUTION_BITS}
            steps.append({**step, **form, "layers": convolutions})
    return [*steps, {**step, "form": candidate.weights, "bits": bits}]


def _needs_second_training(candidate: Candidate) -> bool:
    """Whether to train again with quantized weights."""
    if candidate.kind != "conv" or candidate.structure != "student":
        return True
    return candidate.weights not in FINE_FORMS or (candidate.bits or 0) < ENOUGH_BITS


def _structure(candidate: Candidate) -> Mapping[str, Any]:
    if candidate.structure == "pruned":
        block = {"multiple_of": 4} if candidate.kind == "conv" else {}
        return {"pass": "prune_channels", "keep": candidate.keep, **block}
    step: dict[str, Any] = {"pass": "student"}
    if candidate.window:
        step["window"] = candidate.window
    if candidate.background:
        step["background"] = candidate.background
    if candidate.convolutions:
        step["convolutions"] = candidate.convolutions
    return {**step, "hidden": candidate.hidden}


def _prunable(network: QNetworkSpec) -> int:
    body = network.body
    count = len(body.convolutions) if isinstance(body, ConvSpec) else 0
    return count + len(body.hidden)


def _window(
    trial: BaseTrial, network: QNetworkSpec, *, stacked: bool
) -> dict[str, tuple[int, int]]:
    """Chooses the newest frames of a stack and the middle rows; full spans are omitted."""
    frames, rows, _ = network.seen_shape
    newest = (
        trial.suggest_int("window.frames", min(MIN_FRAMES, frames), frames) if stacked else frames
    )
    top, bottom = (
        trial.suggest_int(
            f"window.{name}", int(rows * low), int(rows * high) // ROWS * ROWS, step=ROWS
        )
        for name, (low, high) in (("top", TOP), ("bottom", BOTTOM))
    )
    spans = {"channels": (frames - newest, frames), "rows": (top, rows - bottom)}
    whole = {"channels": (0, frames), "rows": (0, rows)}
    return {name: span for name, span in spans.items() if span != whole[name]}


def _size(network: QNetworkSpec, window: Mapping[str, tuple[int, int]]) -> int:
    """The smaller side of the first convolution's input."""
    _, rows, columns = network.seen_shape
    start, stop = window.get("rows", (0, rows))
    return min(stop - start, columns)


def _convolutions(trial: BaseTrial, count: int, size: int) -> tuple[dict[str, int], ...]:
    """Chooses convolutions; kernels are no larger than their input."""
    found = []
    small = size < SMALL_SIDE
    first = SMALL_KERNEL if small else FIRST_KERNEL
    for index in range(1, count + 1):
        low, high, step = CHANNELS
        channels = trial.suggest_int(f"conv{index}.channels", low, high, step=step)
        if index == 1:
            kernel, strides = first, SMALL_STRIDES if small else FIRST_STRIDES
        else:
            kernel = trial.suggest_int("conv2.kernel", 3, 4) if index == 2 else 3
            strides = (1, 2)
        stride = trial.suggest_int(f"conv{index}.stride", *strides)
        kernel = min(kernel, size)
        found.append({"channels": channels, "kernel": kernel, "stride": stride})
        size = (size - kernel) // stride + 1
    return tuple(found)
