"""Weights on few levels: linear, powers of two, or a codebook, kept through later fine-tuning.

- **linear**: s·q with integers q (Jacob et al. 2018, 1712.05877), one scale for each output
  channel, or for each block of inputs of a dense layer, of least squared error or of the largest
  weight.
- **power-of-two**: 0 and ±2^(e−k) (Miyashita et al. 2016, 1603.01025): fine near zero, coarse
  above.
- **codebook**: the centres of a k-means clustering (Han et al. 2016, 1510.00149), for each layer.

The weights are rounded here and then trained on their levels by `finetune`: quantization-aware
training. `store_weights`, `quantize_int8` and `quantize_int4` encode them without loss. A layer
that `prune_weights` has pruned keeps its zeros.

Rounding alone costs a moment. At 4 bits and below the policy collapses until it is fine-tuned, and
at 2 bits it takes a codebook.
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
from slimq_compression.network.straight_through import hold


class Form(StrEnum):
    """Where the levels lie."""

    LINEAR = "linear"
    POWER_OF_TWO = "power-of-two"
    CODEBOOK = "codebook"


class Params(BaseModel):
    """Levels, and which layers are put on them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: Form = Field(default=Form.LINEAR, description="where the levels lie")
    bits: int = Field(default=4, ge=2, le=8, description="of a code")
    highest: int | None = Field(
        default=None,
        ge=1,
        le=127,
        description="linear: largest code, where not all of the bits are used: 64 for the portable "
        "int8 that quantize_int8 writes; null: 2^(bits − 1) − 1",
    )
    per_channel: bool = Field(
        default=True, description="linear: one scale for each output channel, not for each layer"
    )
    block: int | None = Field(
        default=None,
        ge=16,
        le=256,
        description="linear: one scale for so many inputs of a dense layer, for quantize_int4",
    )
    fit: bool = Field(
        default=True,
        description="linear: scales of least squared error; otherwise of the largest weight, as "
        "quantize_int8 has them",
    )
    layers: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="by name; null: all that have no levels yet"
    )

    @model_validator(mode="after")
    def _check(self) -> Params:
        if self.form is not Form.LINEAR and (self.highest is not None or self.block is not None):
            raise ValueError("highest and block go with form = linear alone")
        return self


def apply(network: QNetwork, params: Params, context: PassContext) -> QNetwork:  # noqa: ARG001
    """The same network with weights on levels.

    Raises:
        InvalidInputError: `layers` names one that is not there or that has levels already, or
            `block` is asked for and a layer is no dense one.
    """
    quantized = copy.deepcopy(network)
    for name in _chosen(quantized, params):
        kept = quantized.grids.get(name, ())
        sparse = any(isinstance(grid, Mask) for grid in kept)
        hold(quantized, name, (*kept, _levels(params, sparse=sparse)))
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
            raise InvalidInputError("quantize_weights.layers", f"layers of {free}", wrong[0])
    if params.block is not None:
        for name in chosen:
            if not isinstance(layers[name], nn.Linear):
                expected = "dense layers alone in layers"
                raise InvalidInputError("quantize_weights.block", expected, name)
    return chosen
