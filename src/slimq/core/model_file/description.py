"""The description in a model file, stored as JSON in its ONNX metadata properties.

Each field of `ModelDescription` is the property `slimq.<field>`. Within a schema version, fields
are only added, and readers ignore unknown ones. A new version means that older readers would
misunderstand a file, so they refuse it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from slimq import __version__
from slimq.core.errors import RepositoryError
from slimq.core.evidence import Judgement, describe_evidence
from slimq.core.manifest import PolicyManifest, Sha256, Slug, VariantManifest, is_stale
from slimq.core.observation import Dtype, FrameStack, ObservationSpec
from slimq.core.qfunction import INPUT, OUTPUT
from slimq.core.report import EvaluationReport, Interval

PREFIX = "slimq."
SCHEMA_VERSION = 1
IN_MODEL = (
    "all that follows the observation: casts, scaling, one-hot codes of categories, normalization "
    "of the network's own"
)
CHOICE = "the first of the largest q_values; the environment's number of it is start + index"


class _Value(BaseModel):
    """A part of a description; unknown keys, written by a newer slimq, are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Signature(_Value):
    """Names of the graph's input and output; the first axis of both is the batch."""

    input: str = INPUT
    output: str = OUTPUT


class DescribedPolicy(_Value):
    """The policy that the model is a variant of."""

    name: Slug
    environment: dict[str, JsonValue] | None = Field(
        description="id, arguments and step limit; null for a policy without an environment"
    )
    proven_in_play: bool = Field(description="whether there is an environment to play in")
    training: dict[str, JsonValue] | None = Field(
        description="seed, steps, updates and versions; null for an imported policy"
    )
    imported: dict[str, JsonValue] | None = Field(
        description="the file that the policy was imported from; null for a trained one"
    )


class DescribedFrame(_Value):
    """The new data at each step: a frame, or the observation if frames are not stacked."""

    dtype: Dtype
    shape: tuple[int, ...]


class Preprocessing(_Value):
    """The steps between the environment and the graph, in this order."""

    wrappers: list[JsonValue] = Field(
        description="wrappers of the environment, the innermost first; not in the model"
    )
    atari: dict[str, JsonValue] | None = Field(
        description="frames of Atari games as ALE's own vector environment makes them: greyscale, "
        "`size` pixels square, every `frame_skip` emulator frames; not in the model"
    )
    frame: DescribedFrame
    stack: FrameStack | None = Field(
        description="how the newest frames make up the observation; not in the model"
    )
    in_model: str = Field(default=IN_MODEL, description="what the graph does itself")


class Actions(_Value):
    """The meaning of the columns of `q_values`."""

    names: list[str] = Field(min_length=1)
    start: int = Field(default=0, description="the environment's number of the first action")
    choice: str = CHOICE


class DescribedVariant(_Value):
    """The variant, as in its manifest."""

    name: Slug
    precision: str
    parameters: int
    nonzero_parameters: int
    macs: int
    opset: int
    versions: dict[str, str]


class Hashes(_Value):
    """SHA-256 and sizes of the files to which the description refers."""

    model: Sha256 = Field(description="of this file without its properties `slimq.*`")
    model_bytes: int
    stored: Sha256 = Field(description="of the model as it is stored, which may be compressed")
    stored_bytes: int
    source: Sha256 | None = Field(description="of the network that the variant was made from")
    report: Sha256 | None = Field(description="of the evaluation report; null without one")


class DescribedEvidence(_Value):
    """The variant's evidence, undisturbed and under conditions; null if unknown."""

    text: str = Field(description="all of it in a few sentences")
    evaluated: bool
    stale: bool = Field(description="whether it was made from an earlier network of the policy")
    baseline: Slug = Field(description="the full policy's variant, with which it is compared")
    mean_return: float | None = None
    interval: Interval | None = Field(default=None, description="95 % interval of the mean")
    episodes: int | None = None
    agreement: float | None = Field(
        default=None, description="share of states with the same greedy action"
    )
    robust: bool | None = Field(
        default=None,
        description="non-inferior undisturbed and under all standard conditions; null if unknown",
    )
    conditions: list[str] = Field(
        default_factory=list, description="conditions under which there is a comparison"
    )
    fails_under: list[str] = Field(
        default_factory=list, description="`undisturbed`, or standard conditions"
    )
    missing: list[str] = Field(
        default_factory=list,
        description="standard conditions without a comparison, or with one of too few episodes",
    )
    problem: str | None = Field(default=None, description="why there is no comparison")


class ModelDescription(_Value):
    """The description in a model file."""

    schema_version: Literal[1] = Field(default=1, description="major version of these properties")
    producer: str = f"slimq {__version__}"
    signature: Signature = Signature()
    policy: DescribedPolicy
    observation: ObservationSpec = Field(description="layout of the input, as in `policy.json`")
    preprocessing: Preprocessing
    actions: Actions
    variant: DescribedVariant
    recipe: dict[str, JsonValue] = Field(description="as in `variant.json`")
    hashes: Hashes
    evidence: DescribedEvidence

    def properties(self) -> dict[str, str]:
        """The file's properties: the JSON of each field, with sorted keys."""
        document = _plain(self)
        return {
            PREFIX + name: json.dumps(
                value, ensure_ascii=False, sort_keys=True, separators=(",", ":")
            )
            for name, value in sorted(document.items())
        }

    @classmethod
    def parse(cls, properties: Mapping[str, str], place: str) -> Self:
        """Reads the properties of a file.

        Args:
            properties: the properties by key, including the prefix.
            place: name of the file in errors.

        Raises:
            RepositoryError: the description is missing, invalid, or of another schema version.
        """
        if not properties:
            problem = f"has no properties {PREFIX}*; expected a file of slimq export --target onnx"
            raise RepositoryError(place, problem)
        try:
            document = {
                key.removeprefix(PREFIX): json.loads(value) for key, value in properties.items()
            }
        except (ValueError, RecursionError) as error:
            raise RepositoryError(place, f"a property {PREFIX}* is not JSON: {error}") from error
        version = document.get("schema_version")
        if version != SCHEMA_VERSION:
            problem = (
                f"{PREFIX}schema_version: this slimq reads {SCHEMA_VERSION}, found {version!r}"
            )
            raise RepositoryError(place, problem)
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise RepositoryError(place, f"{PREFIX}{key}: {first['msg']}") from error


def describe_model(
    policy: PolicyManifest,
    variant: VariantManifest,
    model: bytes,
    report: EvaluationReport | None,
    judgement: Judgement | None,
) -> ModelDescription:
    """Describes a variant.

    Args:
        policy: the policy's manifest.
        variant: the variant's manifest.
        model: the variant's model, uncompressed and without a description.
        report: the variant's report, if it has been evaluated.
        judgement: its comparison with the full policy, if it was played.
    """
    environment, frame = policy.environment, policy.observation.frame
    whole = {} if environment is None else _plain(environment)
    atari, wrappers = whole.pop("preprocessing", None), whole.pop("wrappers", [])
    return ModelDescription(
        policy=DescribedPolicy(
            name=policy.name,
            environment=None if environment is None else whole,
            proven_in_play=policy.proven_in_play,
            training=_training(policy),
            imported=None if policy.imported is None else _plain(policy.imported),
        ),
        observation=policy.observation,
        preprocessing=Preprocessing(
            wrappers=wrappers,
            atari=atari,
            frame=DescribedFrame(dtype=frame.dtype, shape=frame.shape),
            stack=policy.observation.stack,
        ),
        actions=Actions(names=policy.actions, start=policy.action_start),
        variant=DescribedVariant.model_validate(_plain(variant)),
        recipe=_plain(variant.recipe),
        hashes=Hashes(
            model=hashlib.sha256(model).hexdigest(),
            model_bytes=len(model),
            stored=variant.model.sha256,
            stored_bytes=variant.model.bytes,
            source=variant.parent,
            report=None if variant.report is None else variant.report.sha256,
        ),
        evidence=_evidence(policy, variant, report, judgement),
    )


def _training(policy: PolicyManifest) -> dict[str, JsonValue] | None:
    if policy.training is None:
        return None
    names = ("seed", "steps", "published_step", "updates", "versions")
    return {name: value for name, value in _plain(policy.training).items() if name in names}


def _evidence(
    policy: PolicyManifest,
    variant: VariantManifest,
    report: EvaluationReport | None,
    judgement: Judgement | None,
) -> DescribedEvidence:
    known, played = judgement or Judgement(), None if report is None else report.played
    fidelity, robustness = None if report is None else report.fidelity, known.robustness
    results = () if robustness is None else robustness.results
    return DescribedEvidence(
        text=describe_evidence(policy, variant, report, judgement),
        evaluated=report is not None,
        stale=is_stale(variant, policy),
        baseline=policy.baseline_variant,
        mean_return=None if played is None else played.mean,
        interval=None if played is None else played.interval,
        episodes=None if played is None else len(played.returns),
        agreement=None if fidelity is None else fidelity.agreement,
        robust=None if robustness is None else robustness.robust,
        conditions=[found.condition.label for found in results if found.difference is not None],
        fails_under=known.fails_under,
        missing=[] if robustness is None else [one.label for one in robustness.missing],
        problem=known.problem,
    )


def _plain(value: BaseModel) -> dict[str, Any]:
    """A model as JSON values, with non-finite numbers as null."""
    document: dict[str, Any] = json.loads(value.model_dump_json())
    return document
