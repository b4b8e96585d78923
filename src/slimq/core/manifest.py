"""The manifests of the repository: `policy.json` and `variant.json`.

They are frozen and versioned (`schema.py`), and reject unknown keys. A file is referenced by
content, as `{"path", "bytes", "sha256"}`; the sha256 is that of the stored bytes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import InvalidInputError
from slimq.core.observation import ObservationSpec
from slimq.core.schema import Versioned

SLUG = r"^[a-z0-9][a-z0-9._-]{0,63}$"
MAX_WEIGHTS = 64
"""Maximum number of variants among which a policy's requests are split."""
Slug = Annotated[str, StringConstraints(pattern=SLUG)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class Manifest(BaseModel):
    """Base of all models stored on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(Manifest):
    """A file next to the manifest that references it."""

    path: FileName = Field(description="name of a file in the manifest's own folder")
    bytes: int = Field(ge=0, description="size on disk")
    sha256: Sha256 = Field(description="of the stored bytes")
    uncompressed_bytes: int | None = Field(
        default=None, ge=0, description="size after decompression; set for a compressed file"
    )


class TrainingRecord(Manifest):
    """The training run, in enough detail to reproduce it."""

    config: dict[str, Any] = Field(description="complete training configuration")
    seed: int = Field(ge=0)
    steps: int = Field(ge=0, description="agent steps of the whole run")
    published_step: int | None = Field(
        default=None, ge=0, description="agent step at which the published network was saved"
    )
    updates: int = Field(ge=0, description="gradient steps")
    seconds: float = Field(ge=0, description="wall-clock time over all sessions of the run")
    hardware: str = Field(description="processor, threads and precision")
    versions: dict[str, str] = Field(description="library versions")
    curve: list[tuple[int, float]] = Field(
        description="(agent steps, mean return on selection seeds)"
    )


class Continuation(Manifest):
    """A continuation of training from an earlier checkpoint, with changes or for longer.

    Only the part of the configuration that changed is recorded; the rest is in the training record.
    """

    from_sha256: Sha256 = Field(description="of the network that it started from")
    from_step: int = Field(ge=0, description="agent steps that had been taken until then")
    changes: dict[str, tuple[JsonValue, JsonValue]] = Field(
        default_factory=dict,
        description="value before and after of each key that changed, such as `algorithm.steps`",
    )


class ImportRecord(Manifest):
    """The file that a policy was imported from, and how the import was checked."""

    format: str = Field(description="kind of file, such as stable-baselines3")
    algorithm: str = Field(description="such as DQN, QR-DQN or C51")
    file: str = Field(description="name of the file")
    bytes: int = Field(ge=0)
    sha256: Sha256
    versions: dict[str, str] = Field(
        default_factory=dict, description="versions of the program that made it, as the file says"
    )
    notes: tuple[str, ...] = Field(
        default=(), description="what was left out or assumed, such as noise of the weights"
    )
    states: int = Field(ge=1, description="observations on which the import was checked")
    max_error: float = Field(
        ge=0,
        description="largest difference from the source's Q-values, relative to the largest of "
        "them in absolute value",
    )


class RandomPolicyRecord(Manifest):
    """The return of a uniformly random policy, the zero point of every return ratio."""

    mean: float
    episodes: int = Field(ge=1)
    seeds: str = Field(description="name of the seed range")


class Routing(Manifest):
    """The split among variants of requests that name none."""

    weights: dict[Slug, Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]] = Field(
        min_length=1,
        max_length=MAX_WEIGHTS,
        description="weight of each variant, relative to their sum",
    )

    @model_validator(mode="after")
    def _check(self) -> Routing:
        if not any(self.weights.values()):
            raise ValueError("at least one weight must be greater than 0")
        return self


class Shadow(Manifest):
    """A variant that also computes a share of the requests, for comparison only."""

    variant: Slug
    share: float = Field(gt=0, le=1, description="share of the act requests")


class PolicyManifest(Versioned):
    """`policy.json`: one trained agent for one environment."""

    name: Slug
    environment: EnvironmentSpec | None = Field(
        description="null for an imported policy of which only observations are known"
    )
    observation: ObservationSpec
    actions: list[str] = Field(min_length=1, description="meaning of each action, by index")
    action_start: int = Field(
        default=0,
        ge=-(2**31),
        lt=2**31,
        description="the environment's number of the first action: gymnasium's `Discrete.start`",
    )
    training: TrainingRecord | None = Field(description="null for an imported policy")
    random_policy: RandomPolicyRecord | None = Field(description="null without an environment")
    imported: ImportRecord | None = Field(default=None, description="set for an imported policy")
    history: tuple[Continuation, ...] = Field(
        default=(), description="earlier checkpoints that training continued from, oldest first"
    )
    checkpoint: FileEntry | None = None
    graph: FileEntry | None = Field(
        default=None,
        description="the full policy as an ONNX graph, if slimq has no layers for its network; "
        "then there is no checkpoint",
    )
    calibration: FileEntry | None = None
    held_out: FileEntry | None = Field(
        default=None,
        description="recorded states that compression never sees, for the evaluation of a policy "
        "without an environment; in the form of a calibration set",
    )
    baseline_variant: Slug = "fp32"
    default_variant: Slug = "fp32"
    previous_default: Slug | None = Field(
        default=None, description="default variant before the last promotion, for rollback"
    )
    routing: Routing | None = Field(
        default=None, description="split among variants; null for the default variant alone"
    )
    shadow: Shadow | None = Field(
        default=None, description="variant that also computes a share of the requests"
    )

    @property
    def source(self) -> FileEntry | None:
        """The file of the full policy that compression starts from: checkpoint or graph."""
        return self.checkpoint or self.graph

    @property
    def proven_in_play(self) -> bool:
        """Whether there is an environment to play in, and so more than agreement and regret."""
        return self.environment is not None


def require_environment(manifest: PolicyManifest, purpose: str) -> EnvironmentSpec:
    """The environment of a policy that has to be played.

    Args:
        manifest: the policy's manifest.
        purpose: the purpose of playing, such as `slimq evaluate`, for errors.

    Raises:
        InvalidInputError: the policy has none.
    """
    if manifest.environment is None:
        raise InvalidInputError(
            "policy",
            f"one with an environment, to play in, for {purpose}",
            f"{manifest.name}, which was imported without one and is not proven in play",
            "; import it again with --env",
        )
    return manifest.environment


def random_mean(manifest: PolicyManifest) -> float:
    """The mean return of random play, the zero point of return ratios.

    Raises:
        InvalidInputError: the policy has no environment.
    """
    require_environment(manifest, "returns")
    if manifest.random_policy is None:
        raise InvalidInputError("random_policy", "the return of random play", "null")
    return manifest.random_policy.mean


class StepFidelity(Manifest):
    """A policy's fidelity to the full one on the calibration set."""

    agreement: float = Field(ge=0, le=1, description="share of states with the same greedy action")
    regret: float = Field(
        ge=0, description="mean loss from taking its action, in the full policy's Q-values"
    )


class StepRecord(Manifest):
    """One step of a recipe and its effect."""

    name: str = Field(description="name of the pass")
    parameters: dict[str, Any]
    parameters_count: int = Field(ge=0, description="weights after the step")
    nonzero_parameters: int = Field(ge=0)
    macs: int = Field(ge=0, description="multiply-accumulates of one forward pass after the step")
    bytes: int | None = Field(
        default=None, ge=0, description="size of the model file if exported after this step"
    )
    fidelity: StepFidelity | None = Field(
        default=None, description="fidelity after the step; null if Q-values are not finite"
    )
    seconds: float = Field(ge=0)
    hardware: str | None = Field(
        default=None, description="processor, threads and precision, for a step that trains"
    )


class SearchRecord(Manifest):
    """The search that found a recipe."""

    command: Literal["search", "shrink"] = Field(description="the command that found it")
    minutes: float = Field(ge=0, description="wall time of all its runs until it was published")
    trials: int = Field(ge=0, description="variants that it tried")
    workers: int = Field(ge=1, description="processes of its last run")


class TeacherRecord(Manifest):
    """Another policy of the repository that taught a variant."""

    policy: Slug
    checkpoint_sha256: Sha256 = Field(description="of its checkpoint, or of its graph")
    share: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description="its share of the Q-values that were learned; the rest are the policy's own",
    )


class RecipeRecord(Manifest):
    """The recipe that made a variant."""

    name: Slug
    description: str = ""
    seed: int = Field(ge=0)
    steps: list[StepRecord]
    calibration_sha256: Sha256 | None = Field(
        default=None, description="of the calibration set used to make and check the variant"
    )
    accept: dict[str, Any] | None = Field(
        default=None, description="every criterion of the accept gate that the variant passed"
    )
    search: SearchRecord | None = Field(
        default=None, description="the search that found it; null if it was written by hand"
    )
    teacher: TeacherRecord | None = Field(
        default=None,
        description="the policy whose Q-values it learned; left out if its own",
        exclude_if=lambda teacher: teacher is None,
    )


class VariantManifest(Versioned):
    """`variant.json`: one deployable ONNX form of a policy. Replacing it is the commit point."""

    policy: Slug
    name: Slug
    parent: Sha256 | None = Field(description="sha256 of the checkpoint it was made from")
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
    """Whether a variant was made from a different checkpoint than the policy's current one."""
    if variant.parent is None or policy.source is None:
        return False
    return variant.parent != policy.source.sha256
