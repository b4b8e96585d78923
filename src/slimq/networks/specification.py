"""What a Q-network looks like, as a value: what checkpoints and configurations carry."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Width = Annotated[int, Field(ge=1, le=65_536)]


class ConvLayer(BaseModel):
    """One convolution, followed by a ReLU."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: Width
    kernel: int = Field(ge=1, le=32)
    stride: int = Field(ge=1, le=32)


class ConvSpec(BaseModel):
    """Convolutions, then dense layers, as in the Nature network (Mnih et al. 2015)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["conv"] = "conv"
    convolutions: tuple[ConvLayer, ...] = Field(min_length=1, max_length=16)
    hidden: tuple[Width, ...] = Field(max_length=16, description="widths of the dense layers")


class MLPSpec(BaseModel):
    """Dense layers with ReLU between them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[Width, ...] = Field(max_length=16, description="widths of the dense layers")


class QNetworkSpec(BaseModel):
    """A Q-network with its input and output: enough to build it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    body: ConvSpec | MLPSpec = Field(discriminator="kind")
    observation_shape: tuple[int, ...] = Field(min_length=1)
    observation_dtype: Literal["uint8", "float32"]
    actions: int = Field(ge=1, le=4096)

    @model_validator(mode="after")
    def _check_shape(self) -> QNetworkSpec:
        shape = self.observation_shape
        if self.body.kind == "mlp":
            if len(shape) != 1:
                raise ValueError(f"an mlp network takes a vector, not observations of {shape}")
            return self
        if len(shape) != 3:
            raise ValueError(f"a conv network takes (channels, height, width), not {shape}")
        _, height, width = shape
        for index, layer in enumerate(self.body.convolutions):
            if layer.kernel > min(height, width):
                raise ValueError(
                    f"convolutions[{index}].kernel: at most {min(height, width)}, the size of "
                    f"what reaches it, not {layer.kernel}"
                )
            height = (height - layer.kernel) // layer.stride + 1
            width = (width - layer.kernel) // layer.stride + 1
        return self


NATURE = ConvSpec(
    convolutions=(
        ConvLayer(channels=32, kernel=8, stride=4),
        ConvLayer(channels=64, kernel=4, stride=2),
        ConvLayer(channels=64, kernel=3, stride=1),
    ),
    hidden=(512,),
)
"""The network of Mnih et al. 2015: 1,687,206 parameters with 84×84×4 frames and six actions."""
