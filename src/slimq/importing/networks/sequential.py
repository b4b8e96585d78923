"""Weights of a `torch.nn.Sequential`: layers by the numbers in their names, activations in gaps."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from slimq.core.observation import ObservationSpec
from slimq.importing.files.tensors import sizes
from slimq.importing.networks.architecture import Convolution, Dense, Stack
from slimq.importing.source import describe_layout, refuse

NAME = re.compile(r"(.*?)(\d+)\.(weight|bias)(_mu)?")
STRIDES: dict[tuple[int, ...], tuple[int, ...]] = {(8, 4, 3): (4, 2, 1), (8, 4): (4, 2)}
"""Strides by kernels, which a state dict does not hold: those of Mnih et al. 2015 and 2013."""


@dataclass(frozen=True)
class Step:
    """One module of the sequence that has weights.

    Attributes:
        index: its number.
        weight: of a convolution, a dense layer, or a layer normalization.
        bias: the same.
    """

    index: int
    weight: Tensor
    bias: Tensor

    @property
    def is_norm(self) -> bool:
        """Whether it is a layer normalization, of a vector or of images."""
        return self.weight.shape == self.bias.shape


def steps_of(weights: Mapping[str, Tensor], prefix: str, file: str) -> list[Step]:
    """The modules with weights under a prefix, in order.

    Noisy layers (Fortunato et al. 2018) have their means in `weight_mu`; noise is left out.

    Raises:
        InvalidInputError: a name or a shape is not that of such a module.
    """
    found: dict[int, dict[str, Tensor]] = {}
    for name, value in weights.items():
        if not name.startswith(prefix) or name.endswith(("_sigma", "_epsilon")):
            continue
        matched = NAME.fullmatch(name)
        if matched is None or matched[1] != prefix:
            raise refuse(file, f"layers {prefix}0, {prefix}1 and so on", f"{name[:64]!r}")
        found.setdefault(int(matched[2]), {})[matched[3]] = value
    steps = []
    for index, pair in sorted(found.items()):
        weight, bias = pair.get("weight"), pair.get("bias")
        dense = weight is not None and weight.dim() in (2, 4)
        if weight is None or (bias is None and not dense):
            raise refuse(file, f"a weight and a bias of {prefix}{index}", ", ".join(pair))
        bias = torch.zeros(len(weight)) if bias is None else bias
        if weight.shape != bias.shape and bias.shape != weight.shape[:1]:
            shapes = f"{tuple(weight.shape)} and {tuple(bias.shape)}"
            raise refuse(file, f"a weight and a bias of {prefix}{index} that fit", shapes)
        steps.append(Step(index, weight, bias))
    if not steps:
        raise refuse(file, f"layers {prefix}0, {prefix}1 and so on", sizes(weights))
    return steps


def stack_of(steps: Sequence[Step], file: str) -> tuple[Stack, bool]:
    """The layers, and whether an activation follows every layer but the last.

    An activation has a number of its own, as does the flattening after convolutions.

    Raises:
        InvalidInputError: an order or a shape is not that of such a network.
    """
    convolutions: list[Convolution] = []
    dense: list[Dense] = []
    gaps: list[bool] = []
    kernels = tuple(step.weight.shape[2] for step in steps if step.weight.dim() == 4
                    and not step.is_norm)  # fmt: skip
    strides = STRIDES.get(kernels, ())
    if kernels and not strides:
        expected = "convolutions with kernels 8, 4, 3, whose strides are known"
        remedy = "give the network with --network"
        raise refuse(file, expected, f"kernels {', '.join(map(str, kernels))}", remedy)
    at = 0
    while at < len(steps):
        step = steps[at]
        norm = None
        if at + 1 < len(steps) and steps[at + 1].is_norm:
            norm = (steps[at + 1].weight, steps[at + 1].bias)
        following = at + (2 if norm else 1)
        if step.is_norm:
            raise refuse(file, "a layer before each normalization", f"layer {step.index} alone")
        if following < len(steps):
            flatten = step.weight.dim() == 4 and steps[following].weight.dim() == 2
            gap = steps[following].index - steps[following - 1].index
            gaps.append(gap >= (3 if flatten else 2))
        if step.weight.dim() == 4:
            if dense:
                raise refuse(file, "convolutions before dense layers", f"layer {step.index}")
            _check_square(step, file)
            stride = strides[len(convolutions)]
            convolutions.append(Convolution(step.weight, step.bias, stride, norm=norm))
        else:
            dense.append(Dense(step.weight, step.bias, norm))
        at = following
    return Stack(tuple(convolutions), tuple(dense)), all(gaps)


def run(steps: Sequence[Step], values: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """The output of the sequence, as `torch.nn.Sequential` computes it.

    Args:
        steps: the modules with weights.
        values: `(batch, *shape)`, floats.
        activation: of all layers but the last.
    """
    kernels = tuple(step.weight.shape[2] for step in steps if step.weight.dim() == 4
                    and not step.is_norm)  # fmt: skip
    strides = iter(STRIDES.get(kernels, ()))
    for place, step in enumerate(steps):
        if step.is_norm:
            values = F.layer_norm(values, step.weight.shape, step.weight, step.bias)
        elif step.weight.dim() == 4:
            values = F.conv2d(values, step.weight, step.bias, stride=next(strides))
        else:
            values = F.linear(values.flatten(1), step.weight, step.bias)
        last = place + 1 == len(steps)
        if not last and not steps[place + 1].is_norm:
            values = activation(values)
    return values


def _check_square(step: Step, file: str) -> None:
    rows, columns = step.weight.shape[2:]
    if rows != columns:
        raise refuse(file, "square kernels", f"{rows}×{columns} in layer {step.index}")


def check_numbers(observation: ObservationSpec, file: str) -> None:
    """Checks that there are no categories, of which the layers would take the plain numbers.

    Raises:
        InvalidInputError: there are some.
    """
    for part in observation.parts or ():
        if part.categories is not None:
            received = describe_layout(observation)
            remedy = "wrap the environment as in training, such as in FlattenObservation"
            raise refuse(file, "observations of numbers", received, remedy)
