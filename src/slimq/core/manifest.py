"""The manifests of the repository: `policy.json` and `variant.json`.

They are frozen, versioned and forbid unknown keys. Files are named by content as
`{"path", "bytes", "sha256"}`, the sha256 being that of the stored bytes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from slimq.core.environment import EnvironmentSpec
from slimq.core.observation import ObservationSpec

SLUG = r"^[a-z0-9][a-z0-9._-]{0,63}$"
MOST_WEIGHTS = 64
"""Variants that a policy's requests are spread over."""
Slug = Annotated[str, StringConstraints(pattern=SLUG)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class Manifest(BaseModel):
    """What all values on disk have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(Manifest):
    """A file beside its manifest."""

    path: FileName = Field(description="name of a file in the manifest's own folder")
    bytes: int = Field(ge=0, description="bytes on disk")
    sha256: Sha256 = Field(description="of the stored bytes")
    uncompressed_bytes: int | None = Field(
        default=None, ge=0, description="set for a compressed file: bytes after decompression"
    )


class TrainingRecord(Manifest):
    """How the policy was trained: enough to train it again."""

    config: dict[str, Any] = Field(description="the whole training configuration")
    seed: int = Field(ge=0)
    steps: int = Field(ge=0, description="agent steps of the whole training")
    published_step: int | None = Field(
        default=None, ge=0, description="agent step of the network that was published"
    )
    updates: int = Field(ge=0, description="gradient steps")
    seconds: float = Field(ge=0, description="wall-clock time over all sessions")
    hardware: str = Field(description="processor, threads and precision")
    versions: dict[str, str] = Field(description="library versions")
    curve: list[tuple[int, float]] = Field(
        description="(agent steps, mean return on selection seeds)"
    )


class RandomPolicyRecord(Manifest):
    """The return of uniformly random actions, the zero of every return ratio."""

    mean: float
    episodes: int = Field(ge=1)
    seeds: str = Field(description="name of the seed range")


class Routing(Manifest):
    """Who answers requests that name no variant."""

    weights: dict[Slug, Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]] = Field(
        min_length=1,
        max_length=MOST_WEIGHTS,
        description="share of each variant, relative to their sum",
    )

    @model_validator(mode="after")
    def _check(self) -> Routing:
        if not any(self.weights.values()):
            raise ValueError("at least one weight must be over 0")
        return self


class Shadow(Manifest):
    """A variant that looks at a share of the observations that others answer."""

    variant: Slug
    share: float = Field(gt=0, le=1, description="of the requests for actions")


class PolicyManifest(Manifest):
    """`policy.json`: one trained agent for one environment."""

    schema_version: Literal[1] = 1
    name: Slug
    environment: EnvironmentSpec
    observation: ObservationSpec
    actions: list[str] = Field(min_length=1, description="meaning of each action, by index")
    training: TrainingRecord
    random_policy: RandomPolicyRecord
    checkpoint: FileEntry | None = None
    calibration: FileEntry | None = None
    baseline_variant: Slug = "fp32"
    default_variant: Slug = "fp32"
    previous_default: Slug | None = Field(
        default=None, description="the default before the last promotion, to go back to"
    )
    routing: Routing | None = Field(
        default=None, description="who answers instead of the default variant alone"
    )
    shadow: Shadow | None = Field(default=None, description="who answers too, for comparison")


class StepFidelity(Manifest):
    """How near a policy is to the full one on the calibration set."""

    agreement: float = Field(ge=0, le=1, description="share of states with the same greedy action")
    regret: float = Field(
        ge=0, description="mean of what its action loses by the full policy's Q-values"
    )


class StepRecord(Manifest):
    """One step of a recipe, and what it did."""

    name: str = Field(description="the pass")
    parameters: dict[str, Any]
    parameters_count: int = Field(ge=0, description="weights after the step")
    nonzero_parameters: int = Field(ge=0)
    macs: int = Field(ge=0, description="multiply-accumulates of one forward pass after the step")
    bytes: int | None = Field(
        default=None, ge=0, description="of the model after the step, as a file of its own"
    )
    fidelity: StepFidelity | None = Field(
        default=None, description="after the step; null where Q-values are not finite"
    )
    seconds: float = Field(ge=0)
    hardware: str | None = Field(
        default=None, description="processor, threads and precision of a step that trains"
    )


class RecipeRecord(Manifest):
    """The recipe that made a variant."""

    name: Slug
    description: str = ""
    seed: int = Field(ge=0)
    steps: list[StepRecord]
    calibration_sha256: Sha256 | None = Field(
        default=None, description="of the calibration set that it was made and judged with"
    )
    accept: dict[str, Any] | None = Field(
        default=None, description="the gate that it passed, every criterion"
    )


class VariantManifest(Manifest):
    """`variant.json`: one deployable ONNX form of a policy. Replacing it is the commit point."""

    schema_version: Literal[1] = 1
    policy: Slug
    name: Slug
    parent: Sha256 | None = Field(description="sha256 of the checkpoint that it was made from")
    recipe: RecipeRecord
    model: FileEntry
    report: FileEntry | None = None
    precision: str = Field(description="of weights and activations, such as fp32 or int8")
    parameters: int = Field(ge=0)
    nonzero_parameters: int = Field(ge=0)
    macs: int = Field(ge=0)
    opset: int = Field(ge=1)
    versions: dict[str, str]


def is_stale(variant: VariantManifest, policy: PolicyManifest) -> bool:
    """Whether a variant was made from another checkpoint than the policy has now."""
    if variant.parent is None or policy.checkpoint is None:
        return False
    return variant.parent != policy.checkpoint.sha256
