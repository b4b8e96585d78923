"""Low-rank factorization: replaces a layer by two or three thinner ones, without activations.

A dense layer is reduced to rank r by its singular value decomposition (Denton et al. 2014,
1404.0736), a convolution by Tucker-2 along its channels (Kim et al. 2016, 1511.06530): 1×1 to r_in
channels, k×k to r_out, 1×1 back; see `slimq_compression.network.factorization`.

Ranks are given, or they are the smallest that keep a share of the energy (the sum of squared
singular values) in every layer, or that share is found by bisection to meet a parameter budget.
Unless ranks are given, a layer is factored only if that makes it smaller.

It takes seconds. The dense layer, which has most of the weights, saves bytes and time; the Nature
network's convolutions gain little, since each becomes three layers to run. It fails if the spectrum
is flat, and energy does not measure what matters to the policy: fine-tune afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from slimq.core.errors import InvalidInputError
from slimq.networks.layers import ConvLayer, DenseLayer
from slimq.networks.qnetwork import QNetwork, count_parameters, derive
from slimq.networks.specification import ConvSpec, QNetworkSpec
from slimq_compression.context import PassContext
from slimq_compression.network.factorization import Cut, cut_convolution, cut_dense, singular_values
from slimq_compression.network.units import UnitLayer, unit_layers
from slimq_compression.shares import Limit, is_share, resolve

BISECTIONS = 40

Rank = Annotated[int, Field(ge=1, le=65_536)]
Ranks = dict[str, tuple[int, ...]]


class Params(BaseModel):
    """Exactly one of `energy`, `ranks` and `parameters`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    energy: float | None = Field(
        default=None, gt=0.0, le=1.0, description="share of squared singular values to keep"
    )
    ranks: dict[str, Rank | tuple[Rank, Rank]] | None = Field(
        default=None,
        min_length=1,
        description="by layer name: the rank of a dense layer, [input, output] of a convolution; "
        "other layers are not factored",
    )
    parameters: Limit | None = Field(
        default=None,
        description="maximum weights and biases of the network, or their share of the given "
        'network\'s, such as "1/8"',
    )
    convolutions: bool = Field(
        default=True, description="also factor convolutions, if ranks are not given"
    )

    @model_validator(mode="after")
    def _check(self) -> Params:
        if [self.energy, self.ranks, self.parameters].count(None) != 2:
            raise ValueError("give exactly one of energy, ranks and parameters")
        return self


def apply(network: QNetwork, params: Params, context: PassContext) -> QNetwork:  # noqa: ARG001
    """Makes a network with factored layers; at full rank it computes the same function.

    Raises:
        InvalidInputError: the network has groups, shuffles or residual blocks, or would have too
            many layers; `ranks` names an unknown layer or an impossible rank; or the budget cannot
            be met.
    """
    layers = unit_layers(network, "low_rank")
    if params.ranks is not None:
        ranks = _given_ranks(layers, params.ranks)
    else:
        chosen = [u for u in layers if params.convolutions or isinstance(u.layer, nn.Linear)]
        spectra = {unit.name: singular_values(unit.layer.weight) for unit in chosen}
        energy = params.energy
        if energy is None:
            energy = _affordable(network, chosen, spectra, params.parameters or 1)
        ranks = _energy_ranks(chosen, spectra, energy)
    return _cut_network(network, layers, ranks)


def _given_ranks(layers: list[UnitLayer], given: dict[str, int | tuple[int, int]]) -> Ranks:
    by_name = {unit.name: unit for unit in layers}
    ranks: Ranks = {}
    for name, value in given.items():
        field = f"low_rank.ranks.{name}"
        unit = by_name.get(name)
        if unit is None:
            raise InvalidInputError(field, f"one of the layers {', '.join(by_name)}", name)
        rank = (value,) if isinstance(value, int) else value
        highest = _highest(unit)
        if len(rank) != len(highest):
            expected = "one rank" if len(highest) == 1 else "two ranks, [input, output]"
            raise InvalidInputError(field, expected, str(value))
        if rank != _possible(unit, rank):
            listing = " and ".join(str(limit) for limit in highest)
            if len(highest) == 2:
                listing += f", neither above {_area(unit)} times the other"
            raise InvalidInputError(field, f"at most {listing}", str(value))
        ranks[name] = rank
    return ranks


def _energy_ranks(layers: list[UnitLayer], spectra: dict[str, list[Tensor]], share: float) -> Ranks:
    """The smallest ranks that keep the share, for layers that become smaller."""
    ranks: Ranks = {}
    for unit in layers:
        rank = _possible(unit, [_enough(spectrum, share) for spectrum in spectra[unit.name]])
        if _size(unit, rank) < _whole(unit):
            ranks[unit.name] = rank
    return ranks


def _enough(spectrum: Tensor, share: float) -> int:
    energy = spectrum.square().cumsum(dim=0)
    # Comparing the lost share rather than the kept one is more precise near 1.
    lost = (energy[-1] - energy) / energy[-1].clamp_min(1e-300)
    return min(len(spectrum), 1 + int((lost > 1.0 - share).sum()))


def _affordable(
    network: QNetwork,
    layers: list[UnitLayer],
    spectra: dict[str, list[Tensor]],
    limit: float | str,
) -> float:
    """The largest share of the energy, equal in all layers, that meets the limit."""
    everything = count_parameters(network)
    budget = resolve(limit, everything)

    def parameters(share: float) -> int:
        ranks = _energy_ranks(layers, spectra, share)
        cut = [unit for unit in layers if unit.name in ranks]
        return everything - sum(_whole(unit) - _size(unit, ranks[unit.name]) for unit in cut)

    minimum = parameters(0.0)
    if minimum > budget:
        received = f"{budget} ({limit} of {everything})" if is_share(limit) else str(budget)
        raise InvalidInputError(
            "low_rank.parameters", f"at least {minimum} (all ranks 1)", received
        )
    low, high = 0.0, 1.0
    if parameters(high) <= budget:
        return high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if parameters(middle) <= budget else (low, middle)
    return low


def _highest(unit: UnitLayer) -> tuple[int, ...]:
    outputs, inputs = unit.layer.weight.shape[:2]
    return (inputs, outputs) if isinstance(unit.layer, nn.Conv2d) else (min(inputs, outputs),)


def _area(unit: UnitLayer) -> int:
    return unit.layer.weight[0, 0].numel()


def _possible(unit: UnitLayer, rank: Sequence[int]) -> tuple[int, ...]:
    """Limits ranks to possible ones: none exceeds the product of the others."""
    rank = [min(r, limit) for r, limit in zip(rank, _highest(unit), strict=True)]
    if len(rank) == 2:
        rank[1] = min(rank[1], rank[0] * _area(unit))
        rank[0] = min(rank[0], rank[1] * _area(unit))
    return tuple(rank)


def _whole(unit: UnitLayer) -> int:
    return unit.layer.weight.numel() + unit.width


def _size(unit: UnitLayer, rank: tuple[int, ...]) -> int:
    """Number of weights and biases of the layers that replace a layer."""
    outputs, inputs = unit.layer.weight.shape[:2]
    if len(rank) == 1:
        return rank[0] * (inputs + outputs) + rank[0] + outputs
    into, out = rank
    size = into * out * _area(unit) + out
    size += (inputs + 1) * into if into < inputs else 0
    return size + ((out + 1) * outputs if out < outputs else 0)


def _cut_network(network: QNetwork, layers: list[UnitLayer], ranks: Ranks) -> QNetwork:
    cut = derive(network, _cut_spec(network.spec, ranks))
    made: Iterator[UnitLayer] = iter(unit_layers(cut, "low_rank"))
    for unit in layers:
        weight, bias = (tensor.detach() for tensor in unit.layer.parameters())
        rank = ranks.get(unit.name)
        parts: Cut = [(weight, bias)]
        if rank is not None:
            factor = cut_dense if len(rank) == 1 else cut_convolution
            parts = factor(weight, bias, *rank)
        for part_weight, part_bias in parts:
            new = next(made)
            new.layer.load_state_dict({"weight": part_weight, "bias": part_bias})
            if new.norm is not None and unit.norm is not None:
                new.norm.load_state_dict(unit.norm.state_dict())
    cut.head.load_state_dict(network.head.state_dict())
    return cut.train(network.training)


def _cut_spec(spec: QNetworkSpec, ranks: Ranks) -> QNetworkSpec:
    body = spec.body
    values: dict[str, object] = {"kind": body.kind, "activation": body.activation}
    hidden: list[int | DenseLayer] = []
    for index, dense in enumerate(body.hidden, start=1):
        if f"dense{index}" in ranks:
            hidden.append(DenseLayer(width=ranks[f"dense{index}"][0], activation=False))
        hidden.append(dense)
    values["hidden"] = hidden
    if isinstance(body, ConvSpec):
        channels, convolutions = spec.seen_shape[0], []
        for index, layer in enumerate(body.convolutions, start=1):
            if isinstance(layer, ConvLayer):
                convolutions += _cut_layers(layer, channels, ranks.get(f"conv{index}"))
                channels = layer.channels
        values |= {
            "window": body.window,
            "channels": body.channels,
            "background": body.background,
            "convolutions": convolutions,
        }
    try:
        return QNetworkSpec(**{**dict(spec), "body": type(body).model_validate(values)})
    except ValidationError as error:
        expected = "a network within the limit on layers after factorization"
        raise InvalidInputError("low_rank.network", expected, error.errors()[0]["msg"]) from error


def _cut_layers(layer: ConvLayer, inputs: int, rank: tuple[int, ...] | None) -> list[ConvLayer]:
    if rank is None:
        return [layer]
    into, out = rank
    cut = [layer]
    if out < layer.channels:
        bare = {"channels": out, "batch_norm": False, "activation": False}
        back = layer.model_copy(update={"kernel": 1, "stride": 1, "padding": 0})
        cut = [layer.model_copy(update=bare), back]
    if into < inputs:
        cut.insert(0, ConvLayer(channels=into, kernel=1, activation=False))
    return cut
