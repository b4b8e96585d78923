"""Weight quantization to linear, power-of-two or codebook levels, kept through fine-tuning.

- **linear**: s·q with integers q (Jacob et al. 2018, 1712.05877), one scale per output channel, or
  per block of inputs of a dense layer, from the least squared error or the largest weight.
- **power-of-two**: 0 and ±2^(e−k) (Miyashita et al. 2016, 1603.01025): fine near zero, coarse
  elsewhere.
- **codebook**: centres of a k-means clustering (Han et al. 2016, 1510.00149), per layer.

Weights are rounded here and then trained on their levels by `finetune` (quantization-aware
training). `store_weights`, `quantize_int8` and `quantize_int4` encode them without loss. A layer
pruned by `prune_weights` keeps its zeros.

With `rounding = "compensated"`, the weights of an output compensate for each other's rounding
errors (GPTQ, see `network.compensation`): at 4 to 6 bits without training, this keeps most of the
decisions that rounding to nearest loses. It takes seconds, and memory for the square of a layer's
inputs.

Biases compensate for the mean error of rounding (see `network.bias_matching`). Otherwise even 8
bits cost a policy many of its decisions between close actions, which a constant error tips.

Rounding takes a moment. At 4 bits and below, the policy collapses until it is fine-tuned; 2 bits
need a codebook.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)
from torch import nn

from slimq.core.errors import InvalidInputError
from slimq.core.observation import Observations
from slimq.networks.grids import Codebook, Grid, LinearLevels, Mask, PowerOfTwoLevels
from slimq.networks.qnetwork import QNetwork, named_layers
from slimq_compression.context import PassContext
from slimq_compression.network.bias_matching import match_means
from slimq_compression.network.compensation import round_compensated
from slimq_compression.network.layers import layer_roles
from slimq_compression.network.straight_through import attach_grids
from slimq_compression.roles import Table, chosen_layers, form_of, values_by_layer


class Form(StrEnum):
    """Kind of levels."""

    LINEAR = "linear"
    POWER_OF_TWO = "power-of-two"
    CODEBOOK = "codebook"


STATES = 256
"""Calibration states for bias correction and compensated rounding."""


class Rounding(StrEnum):
    """Choice of a weight's level."""

    NEAREST = "nearest"
    COMPENSATED = "compensated"


Bits = Annotated[int, Field(ge=2, le=8)]


class Params(BaseModel):
    """Levels, and the layers to quantize."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: Form = Field(default=Form.LINEAR, description="kind of levels")
    bits: Annotated[
        Annotated[Bits, Tag("number")] | Annotated[Table[Bits], Tag("table")],
        Discriminator(form_of),
    ] = Field(
        default=4, description="bits per code: of all layers, or by role, layer name or `default`"
    )
    highest: int | None = Field(
        default=None,
        ge=1,
        le=127,
        description="linear: largest code, such as 64 for the portable codes of quantize_int8; "
        "null: 2^(bits − 1) − 1",
    )
    per_channel: bool = Field(
        default=True, description="linear: one scale per output channel rather than per layer"
    )
    block: int | None = Field(
        default=None,
        ge=16,
        le=256,
        description="linear: inputs of a dense layer that share one scale, for quantize_int4",
    )
    fit: bool = Field(
        default=True,
        description="linear: scales with the least squared error; otherwise from the largest "
        "weight, as in quantize_int8",
    )
    layers: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="layers by name or role (first, convolutions, dense, head); null: all not "
        "quantized yet",
    )

    rounding: Rounding = Field(
        default=Rounding.NEAREST,
        description="nearest level, or compensated: each weight compensates for the errors of "
        "earlier ones on calibration states; for form = linear without sparsity",
    )
    correct_bias: bool = Field(
        default=True,
        description="shift biases so that the mean outputs on calibration states stay the same",
    )

    @model_validator(mode="after")
    def _check(self) -> Params:
        if self.form is not Form.LINEAR and (self.highest is not None or self.block is not None):
            raise ValueError("highest and block require form = linear")
        if self.form is not Form.LINEAR and self.rounding is not Rounding.NEAREST:
            raise ValueError("rounding = compensated requires form = linear")
        return self

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omits later options that are off, so that records of older recipes stay the same."""
        values: dict[str, Any] = handler(self)
        if not self.correct_bias:
            del values["correct_bias"]
        if self.rounding is Rounding.NEAREST:
            del values["rounding"]
        return values


def apply(network: QNetwork, params: Params, context: PassContext) -> QNetwork:
    """Copies the network with weights rounded to levels.

    Raises:
        InvalidInputError: `layers` or `bits` names a layer that is unknown or already quantized or
            only roles without such layers, `bits` does not cover a layer, or `block` is given and a
            layer is not dense.
    """
    quantized = copy.deepcopy(network)
    compensated = params.rounding is Rounding.COMPENSATED
    states = context.spread(STATES) if compensated or params.correct_bias else None
    for name, bits in _bits_by_layer(quantized, params).items():
        kept = quantized.grids.get(name, ())
        sparse = any(isinstance(grid, Mask) for grid in kept)
        levels = _levels(params, bits, sparse=sparse)
        if compensated and states is not None and isinstance(levels, LinearLevels):
            _round(quantized, name, levels, states, sparse=sparse)
        attach_grids(quantized, name, (*kept, levels))
    if params.correct_bias and states is not None:
        match_means(quantized, network, states)
    return quantized


def _round(
    network: QNetwork, name: str, levels: LinearLevels, states: Observations, *, sparse: bool
) -> None:
    """Rounds a layer's weights to levels, with error compensation."""
    layer = named_layers(network)[name]
    if sparse or (isinstance(layer, nn.Conv2d) and layer.groups > 1):
        received = f"{name}, a {'sparse' if sparse else 'grouped'} layer"
        expected = "nearest for sparse layers and grouped convolutions"
        raise InvalidInputError("quantize_weights.rounding", expected, received)
    levels.advance(layer.weight.detach(), 0.0)
    round_compensated(network, layer, levels, states)


def _levels(params: Params, bits: int, *, sparse: bool) -> Grid:
    match params.form:
        case Form.LINEAR:
            highest = params.highest or 2 ** (bits - 1) - 1
            return LinearLevels(highest, params.per_channel, params.block, params.fit)
        case Form.POWER_OF_TWO:
            return PowerOfTwoLevels(bits)
        case Form.CODEBOOK:
            return Codebook(bits, sparse)


def _bits_by_layer(network: QNetwork, params: Params) -> dict[str, int]:
    """Bits of each chosen layer, none of which has levels yet."""
    roles = {
        name: own
        for name, own in layer_roles(network).items()
        if all(isinstance(grid, Mask) for grid in network.grids.get(name, ()))
    }
    kind = "layers not quantized yet"
    if params.layers is not None:
        chosen = chosen_layers(params.layers, roles, "quantize_weights.layers", kind)
        roles = {name: roles[name] for name in chosen}
        kind = "chosen layers"
    if params.block is not None:
        layers = named_layers(network)
        for name in roles:
            if not isinstance(layers[name], nn.Linear):
                expected = "only dense layers in layers"
                raise InvalidInputError("quantize_weights.block", expected, name)
    if isinstance(params.bits, Mapping):
        return values_by_layer(params.bits, roles, "quantize_weights.bits", kind)
    return dict.fromkeys(roles, params.bits)
