"""Training configuration: one typed object shared by the TOML file, the command and the docs.

The defaults of `AlgorithmConfig` are the plain algorithm of Mnih et al. 2015; every later
improvement is an option, off by default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slimq.core.environment import EnvironmentSpec
from slimq.core.manifest import Slug
from slimq.core.threads import MAX_THREADS
from slimq.core.toml_files import read_toml
from slimq.networks.frame_disturbance import FrameDisturbance
from slimq.networks.specification import Body, HeadSpec


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AlgorithmConfig(_Config):
    """DQN hyper-parameters. The defaults are the plain algorithm; options name their source."""

    steps: int = Field(ge=1, description="total agent steps, over all environments")
    environments: int = Field(default=1, ge=1, le=256, description="environments run in parallel")
    replay_size: int = Field(
        default=1_000_000,
        ge=100,
        le=10**9,
        description="capacity of the replay buffer, in transitions",
    )
    batch_size: int = Field(default=32, ge=1, le=65_536, description="transitions per update")
    learning_starts: int = Field(
        default=50_000, ge=0, description="agent steps before the first update"
    )
    update_every: int = Field(default=4, ge=1, description="agent steps per update")
    target_update_every: int = Field(
        default=10_000, ge=1, description="updates between target network updates"
    )
    gamma: float = Field(default=0.99, ge=0.0, lt=1.0, description="discount factor per agent step")
    epsilon_start: float = Field(
        default=1.0, ge=0.0, le=1.0, description="initial exploration rate"
    )
    epsilon_end: float = Field(default=0.1, ge=0.0, le=1.0, description="final exploration rate")
    epsilon_steps: int = Field(
        default=1_000_000, ge=1, description="agent steps over which epsilon is annealed linearly"
    )
    optimizer: Literal["rmsprop", "adam"] = Field(
        default="rmsprop", description="centred RMSProp, or Adam (Kingma & Ba 2015)"
    )
    learning_rate: float = Field(
        default=2.5e-4, gt=0.0, le=1.0, description="initial learning rate"
    )
    learning_rate_end: float | None = Field(
        default=None,
        gt=0.0,
        le=1.0,
        description="final learning rate, annealed linearly; null: constant",
    )
    optimizer_epsilon: float | None = Field(
        default=None,
        gt=0.0,
        description="term added to the denominator; null: 0.1 for rmsprop, 1e-8 for adam",
    )
    loss: Literal["squared", "huber"] = Field(
        default="squared", description="loss on the temporal-difference error"
    )
    gradient_clip: float | None = Field(
        default=None, gt=0.0, description="maximum gradient norm; null: no clipping"
    )
    clip_rewards: bool = Field(default=True, description="learn from rewards clipped to [-1, 1]")
    double: bool = Field(default=False, description="Double DQN (van Hasselt et al. 2016)")
    n_step: int = Field(
        default=1,
        ge=1,
        le=64,
        description="steps of the return before bootstrapping (Sutton 1988)",
    )
    priority_exponent: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="exponent of prioritized replay (Schaul et al. 2016); 0: uniform",
    )
    importance_exponent: float = Field(
        default=0.4,
        ge=0.0,
        le=1.0,
        description="initial exponent of the importance weights, annealed linearly to 1",
    )
    average_decay: float | None = Field(
        default=None,
        ge=0.0,
        lt=1.0,
        description="publish a moving average of the weights over 1 / (1 - average_decay) updates "
        "(Polyak & Juditsky 1992); null: publish the last weights",
    )
    augmentation: FrameDisturbance | None = Field(
        default=None,
        description="disturbances of the frames of each minibatch (DrQ: Kostrikov et al. 2020); "
        "null: none",
    )

    @property
    def denominator_term(self) -> float:
        """`optimizer_epsilon`, or the optimizer's default."""
        if self.optimizer_epsilon is not None:
            return self.optimizer_epsilon
        return 1e-8 if self.optimizer == "adam" else 0.1

    @model_validator(mode="after")
    def _check(self) -> AlgorithmConfig:
        if self.replay_size // self.environments < 2 * (self.n_step + 64):
            raise ValueError("replay_size is too small for this many environments and n_step")
        if self.learning_starts >= self.steps:
            raise ValueError(
                f"learning_starts ({self.learning_starts}) leaves no steps to learn from; "
                f"it must be less than steps ({self.steps})"
            )
        return self


class RunConfig(_Config):
    """Run settings: hardware, checkpoints, selection of the published network, early stopping."""

    device: str = Field(default="auto", description="cpu, cuda or auto")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: bf16 if the processor supports it"
    )
    threads: int = Field(
        default=1,
        ge=0,
        le=MAX_THREADS,
        description="threads of torch and of Atari games; 0: all cores, for idle machines "
        "only; --threads takes precedence",
    )
    checkpoint_minutes: float = Field(
        default=5.0, gt=0.0, description="minutes between checkpoints"
    )
    log_every: int = Field(default=2_000, ge=1, description="agent steps between log entries")
    evaluate_every: int = Field(
        default=50_000, ge=1, description="agent steps between evaluations on selection seeds"
    )
    evaluate_episodes: int = Field(
        default=10,
        ge=1,
        le=10_000,
        description="episodes per evaluation; the network with the best mean return is published",
    )
    target_return: float | None = Field(
        default=None,
        description="mean return on selection seeds at which training stops early; null: none",
    )


class TrainConfig(_Config):
    """Configuration of one training run, as read by `slimq train`."""

    policy: Slug = Field(description="name under which the policy is published")
    seed: int = Field(
        default=1, ge=0, le=900, description="seed of networks, exploration and episodes"
    )
    environment: EnvironmentSpec = Field(description="the environment and its preprocessing")
    network: Body | None = Field(
        default=None,
        description="layers up to the head; null: the Nature network for images of at least 36 "
        "pixels, one small convolution for smaller ones, an encoder for each image among other "
        "parts, and two dense layers of 64 for everything else",
    )
    head: HeadSpec = Field(
        default_factory=HeadSpec, description="layers from the network to the Q-values"
    )
    algorithm: AlgorithmConfig = Field(description="hyper-parameters of DQN")
    run: RunConfig = Field(
        default_factory=RunConfig, description="hardware, checkpoints, evaluation, early stopping"
    )
    calibration_states: int = Field(
        default=1_000, ge=1, le=100_000, description="states kept for calibration"
    )


def load_config(path: Path) -> TrainConfig:
    """Reads a TOML file.

    Raises:
        ConfigError: the file is missing or not valid TOML, or has an unknown key or an invalid
            value; names the file, the key, its line and the closest valid key.
    """
    return read_toml(path).validate(TrainConfig)
