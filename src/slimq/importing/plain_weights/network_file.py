"""The network of plain weights, from a TOML file that a user writes.

actions = 2                          # optional: follows from the last layer otherwise

[network]
kind = "mlp"
hidden = [64, 64]
activation = "tanh"

[head]                               # optional
dueling = true

[observation]                        # optional: of the environment or the states otherwise
dtype = "float32"
shape = [4]
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from slimq.core.observation import ObservationSpec
from slimq.core.toml_files import read_toml
from slimq.networks.specification import Body, HeadSpec


class NetworkFile(BaseModel):
    """A network without its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: Body = Field(description="layers before the head, as in a training configuration")
    head: HeadSpec = Field(default_factory=HeadSpec, description="the last layers")
    observation: ObservationSpec | None = Field(
        default=None, description="layout of the observations, for a check"
    )
    actions: int | None = Field(default=None, ge=1, le=4096, description="number of actions")
    divisor: float = Field(
        default=255.0, gt=0.0, description="uint8 observations without parts are divided by it"
    )
    divisors: dict[str, float] = Field(
        default_factory=dict, description="parts are divided by these, by name"
    )


def read_network_file(path: Path) -> NetworkFile:
    """Reads the file.

    Raises:
        ConfigError: it cannot be read, or has an unknown key or an invalid value.
    """
    return read_toml(path).validate(NetworkFile)
