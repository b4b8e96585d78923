"""The training configuration: one typed object that the TOML file, the command and the docs share.

The defaults of `AlgorithmConfig` are the plain algorithm of Mnih et al. 2015; every later
improvement is an option that is off.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slimq.core.environment import EnvironmentSpec
from slimq.core.manifest import Slug
from slimq.core.toml_files import read_toml
from slimq.networks.specification import NATURE, ConvSpec, MLPSpec


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AlgorithmConfig(_Config):
    """DQN. The defaults are the plain algorithm; sources stand with the options."""

    steps: int = Field(ge=1, description="agent steps in all, over all environments")
    environments: int = Field(default=1, ge=1, le=256, description="environments side by side")
    replay_size: int = Field(
        default=1_000_000, ge=100, le=10**9, description="transitions kept for replay"
    )
    batch_size: int = Field(default=32, ge=1, le=65_536, description="transitions in an update")
    learning_starts: int = Field(default=50_000, ge=0, description="agent steps before updates")
    update_every: int = Field(default=4, ge=1, description="agent steps for each update")
    target_update_every: int = Field(
        default=10_000, ge=1, description="updates after which the target network is replaced"
    )
    gamma: float = Field(default=0.99, ge=0.0, lt=1.0, description="discount of each agent step")
    epsilon_start: float = Field(default=1.0, ge=0.0, le=1.0, description="exploration at first")
    epsilon_end: float = Field(default=0.1, ge=0.0, le=1.0, description="exploration at last")
    epsilon_steps: int = Field(
        default=1_000_000, ge=1, description="agent steps in which epsilon falls linearly"
    )
    optimizer: Literal["rmsprop", "adam"] = Field(
        default="rmsprop", description="centred RMSProp, or Adam (Kingma & Ba 2015)"
    )
    learning_rate: float = Field(default=2.5e-4, gt=0.0, le=1.0, description="at first")
    learning_rate_end: float | None = Field(
        default=None,
        gt=0.0,
        le=1.0,
        description="at the last step, falling linearly; null: constant",
    )
    optimizer_epsilon: float = Field(default=0.1, gt=0.0, description="added to its denominator")
    loss: Literal["squared", "huber"] = Field(
        default="squared", description="of the temporal-difference error"
    )
    gradient_clip: float | None = Field(
        default=None, gt=0.0, description="largest norm of a gradient; null: no limit"
    )
    clip_rewards: bool = Field(default=True, description="learn from rewards clipped to [-1, 1]")
    double: bool = Field(default=False, description="Double DQN (van Hasselt et al. 2016)")
    n_step: int = Field(
        default=1,
        ge=1,
        le=64,
        description="length of the return before bootstrapping (Sutton 1988)",
    )
    priority_exponent: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="of prioritized replay (Schaul et al. 2016); 0: uniform",
    )
    importance_exponent: float = Field(
        default=0.4,
        ge=0.0,
        le=1.0,
        description="of its importance weights at first, rising linearly to 1 at the last step",
    )
    average_decay: float | None = Field(
        default=None,
        ge=0.0,
        lt=1.0,
        description="publish the moving average of the weights over 1 / (1 - this) updates "
        "(Polyak & Juditsky 1992); null: publish the last weights",
    )

    @model_validator(mode="after")
    def _check(self) -> AlgorithmConfig:
        if self.replay_size // self.environments < 2 * (self.n_step + 64):
            raise ValueError("replay_size is too small for this many environments and n_step")
        if self.learning_starts >= self.steps:
            raise ValueError(
                f"learning_starts ({self.learning_starts}) leaves no step to learn from; "
                f"it must be less than steps ({self.steps})"
            )
        return self


class RunConfig(_Config):
    """How the run is carried out, which network of it is published, and when it ends early."""

    device: str = Field(default="auto", description="cpu, cuda or auto")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: bf16 where the processor computes in it"
    )
    threads: int = Field(default=0, ge=0, le=256, description="torch threads, 0 for all cores")
    checkpoint_minutes: float = Field(default=5.0, gt=0.0, description="between checkpoints")
    log_every: int = Field(default=2_000, ge=1, description="agent steps between log entries")
    evaluate_every: int = Field(
        default=50_000, ge=1, description="agent steps between plays on selection seeds"
    )
    evaluate_episodes: int = Field(
        default=10,
        ge=1,
        le=10_000,
        description="selection episodes; the best network of these is published",
    )
    target_return: float | None = Field(
        default=None, description="mean selection return that ends the training early; null: none"
    )


class TrainConfig(_Config):
    """A whole training: what `slimq train` reads."""

    policy: Slug = Field(description="name under which the policy is published")
    seed: int = Field(default=1, ge=0, le=900, description="of networks, exploration and episodes")
    environment: EnvironmentSpec
    network: ConvSpec | MLPSpec = Field(default=NATURE, discriminator="kind")
    algorithm: AlgorithmConfig
    run: RunConfig = Field(default_factory=RunConfig)
    calibration_states: int = Field(
        default=1_000, ge=1, le=100_000, description="states kept for calibration"
    )


def load_config(path: Path) -> TrainConfig:
    """Reads a TOML file.

    Raises:
        ConfigError: the file is missing, is no TOML, has an unknown key or an impossible value;
            names the file, the key, its line and the nearest valid one.
    """
    return read_toml(path).validate(TrainConfig)
