"""Specification of a policy's environment and its preprocessing."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, JsonValue

DEFAULT_EPISODE_STEPS = 27_000
"""Step limit of an environment that has none: half an hour of Atari (Machado et al. 2018)."""


class AtariPreprocessing(BaseModel):
    """Atari frame preprocessing (Mnih et al. 2015, Methods; Machado et al. 2018)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frame_skip: int = Field(default=4, ge=1, le=16, description="emulator frames per agent step")
    size: int = Field(default=84, ge=16, le=256, description="height and width of a frame, pixels")
    stack: int = Field(default=4, ge=1, le=16, description="frames in one observation")
    noop_max: int = Field(
        default=30, ge=0, le=60, description="maximum no-op actions at the start of an episode"
    )
    fire_reset: bool = Field(default=False, description="press fire after a reset")
    sticky_actions: float = Field(
        default=0.0, ge=0.0, le=1.0, description="probability of repeating the previous action"
    )


class WrapperSpec(BaseModel):
    """A wrapper around an environment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        min_length=1,
        max_length=256,
        description="a wrapper of gymnasium, such as FlattenObservation, or `module:Class` or "
        "`FILE.py:Class`",
    )
    kwargs: dict[str, JsonValue] = Field(
        default_factory=dict, description="its keyword arguments, of any JSON type"
    )


class EnvironmentSpec(BaseModel):
    """A gymnasium environment and its wrappers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(
        min_length=1,
        max_length=256,
        description="gymnasium id, such as CartPole-v1; `module:Id` imports the module first; "
        "`FILE.py:function` or `module:function` calls a function that returns an environment",
    )
    kwargs: dict[str, JsonValue] = Field(
        default_factory=dict, description="keyword arguments of gymnasium.make, of any JSON type"
    )
    wrappers: tuple[WrapperSpec, ...] = Field(
        default=(), max_length=32, description="wrappers, the innermost first"
    )
    preprocessing: AtariPreprocessing | None = Field(
        default=None,
        description="set for Atari games; null to use observations unchanged",
    )
    max_episode_steps: int | None = Field(
        default=None,
        ge=1,
        description="agent steps after which an episode is truncated; null: the environment's own "
        f"limit, or {DEFAULT_EPISODE_STEPS:,} if it has none",
    )


def named_code(spec: EnvironmentSpec) -> list[str]:
    """References to files and modules whose code an environment runs, without registered ones."""
    named = [spec.id, *(wrapper.name for wrapper in spec.wrappers)]
    for wrapper in spec.wrappers:
        named += [value for value in wrapper.kwargs.values() if isinstance(value, str)]
    return [name for name in named if ":" in name]
