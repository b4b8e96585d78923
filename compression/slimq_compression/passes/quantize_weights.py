"""Weight quantization to linear, power-of-two or codebook levels, kept through fine-tuning.

- **linear**: s·q with integers q (Jacob et al. 2018, 1712.05877), one scale per output channel, or
  per block of inputs of a dense layer, from the least squared error or the largest weight.
- **power-of-two**: 0 and ±2^(e−k) (Miyashita et al. 2016, 1603.01025): fine near zero, coarse
  elsewhere.
- **codebook**: centres of a k-means clustering (Han et al. 2016, 1510.00149), per layer.

Weights are rounded here and then trained on their levels by `finetune` (quantization-aware
training). `store_weights`, `quantize_int8` and `quantize_int4` encode them without loss. A layer
pruned by `prune_weights` keeps its zeros.

Rounding takes a moment. At 4 bits and below, the policy collapses until it is fine-tuned; 2 bits
need a codebook.
"""

from __future__ import annotations

import copy
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from slimq.core.errors import InvalidInputError
from slimq.networks.grids import Codebook, Grid, LinearLevels, Mask, PowerOfTwoLevels
from slimq.networks.qnetwork import QNetwork, named_layers
from slimq_compression.context import PassContext
from slimq_compression.network.straight_through import attach_grids


class Form(StrEnum):
    """Kind of levels."""

    LINEAR = "linear"
    POWER_OF_TWO = "power-of-two"
    CODEBOOK = "codebook"


class Params(BaseModel):
    """Levels, and the layers to quantize."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: Form = Field(default=Form.LINEAR, description="kind of levels")
    bits: int = Field(default=4, ge=2, le=8, description="bits per code")
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
        description="linear: scales of least squared error; otherwise from the largest weight, "
        "as in quantize_int8",
    )
    layers: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="names of layers; null: all not quantized yet",
    )

    @model_validator(mode="after")
    def _check(self) -> Params:
        if self.form is not Form.LINEAR and (self.highest is not None or self.block is not None):
            raise ValueError("highest and block require form = linear")
        return self


def apply(network: QNetwork, params: Params, context: PassContext) -> QNetwork:  # noqa: ARG001
    """Copies the network with weights rounded to levels.

    Raises:
        InvalidInputError: `layers` names a layer that is unknown or already quantized, or `block`
            is given and a layer is not dense.
    """
    quantized = copy.deepcopy(network)
    for name in _chosen(quantized, params):
        kept = quantized.grids.get(name, ())
        sparse = any(isinstance(grid, Mask) for grid in kept)
        attach_grids(quantized, name, (*kept, _levels(params, sparse=sparse)))
    return quantized


def _levels(params: Params, *, sparse: bool) -> Grid:
    match params.form:
        case Form.LINEAR:
            highest = params.highest or 2 ** (params.bits - 1) - 1
            return LinearLevels(highest, params.per_channel, params.block, params.fit)
        case Form.POWER_OF_TWO:
            return PowerOfTwoLevels(params.bits)
        case Form.CODEBOOK:
            return Codebook(params.bits, sparse)


def _chosen(network: QNetwork, params: Params) -> list[str]:
    layers = named_layers(network)
    quantized = {
        name
        for name, grids in network.grids.items()
        if any(not isinstance(grid, Mask) for grid in grids)
    }
    if params.layers is None:
        chosen = [name for name in layers if name not in quantized]
    else:
        chosen = list(params.layers)
        wrong = [name for name in chosen if name not in layers or name in quantized]
        if wrong:
            free = ", ".join(name for name in layers if name not in quantized)
            raise InvalidInputError("quantize_weights.layers", f"some of {free}", wrong[0])
    if params.block is not None:
        for name in chosen:
            if not isinstance(layers[name], nn.Linear):
                expected = "only dense layers in layers"
                raise InvalidInputError("quantize_weights.block", expected, name)
    return chosen
