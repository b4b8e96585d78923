"""Recipes: TOML files with the steps that make a variant and the criteria it must meet.

    name = "pruned-int8"
    seed = 0

    [[network]]              # torch, in order
    pass = "prune_channels"
    ratio = 0.7

    [export]
    opset = 21

    [[graph]]                # ONNX, in order
    pass = "quantize_int8"

    [store]                  # how the file is stored
    compression = "zstd"

    [accept]                 # on selection seeds, before anything is published
    episodes = 10
    margin = 0.02

Every mistake is a ConfigError that names the file, the step, the line and the closest valid name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from slimq.core.errors import nearest, suggestion
from slimq.core.manifest import PolicyManifest, SearchRecord, Slug
from slimq.core.toml_files import TomlDocument, parse_toml, read_toml
from slimq.networks.export import OPSET
from slimq_compression.catalogue import CATALOGUE, Pass, Phase, names
from slimq_compression.network.distillation import DistillationParams
from slimq_compression.shares import Limit, is_share


class ExportParams(BaseModel):
    """Export to ONNX, between network passes and graph passes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    opset: int = Field(default=OPSET, ge=17, le=25, description="opset of the ONNX default domain")


class Store(BaseModel):
    """Storage of the file, after the graph passes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    compression: Literal["none", "zstd"] = Field(
        default="none", description="compression of the file; readers expand it on loading"
    )
    level: int = Field(default=19, ge=1, le=22, description="zstd level")
    compact: bool = Field(
        default=False, description="shorten tensor names and drop node names, for smaller files"
    )

    @property
    def changes(self) -> bool:
        """Whether the file differs from the last pass's output."""
        return self.compact or self.compression != "none"


class Accept(BaseModel):
    """Criteria for publishing a variant; those that are null are not checked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    episodes: int = Field(
        default=10, ge=1, le=100_000, description="selection episodes, paired with the baseline's"
    )
    margin: float | None = Field(
        default=None,
        ge=0.0,
        le=1.0,
        description="margin within which a variant is non-inferior in undisturbed play: the lower "
        "95 % bound of (variant − full) / (full − random) must be at least -margin",
    )
    return_ratio: float | None = Field(
        default=None,
        ge=0.0,
        le=2.0,
        description="minimum (variant − random) / (full − random), from mean returns",
    )
    agreement: float | None = Field(
        default=None,
        ge=0.0,
        le=1.0,
        description="minimum share of calibration states with the full policy's greedy action",
    )
    max_bytes: Limit | None = Field(
        default=None,
        description="maximum size of the model file in bytes, or as a share of the full variant's, "
        'such as "1/8"',
    )
    robust: bool = Field(
        default=False,
        description="whether the variant must also be non-inferior under each standard condition; "
        "conditions under which the full policy itself loses more than half decide nothing",
    )
    condition_episodes: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="selection episodes under each condition; by default as many as `episodes`",
    )

    @model_validator(mode="after")
    def _check(self) -> Accept:
        if self.robust and self.margin is None:
            raise ValueError("robust needs a margin, which holds for undisturbed play")
        if self.condition_episodes is not None and not self.robust:
            raise ValueError("condition_episodes needs robust = true")
        return self

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omits unset fields that older manifests do not have."""
        return {
            name: value
            for name, value in handler(self).items()
            if name not in ("robust", "condition_episodes") or value
        }

    @property
    def compares(self) -> bool:
        """Whether a criterion needs the full variant."""
        return self.plays or (self.max_bytes is not None and is_share(self.max_bytes))

    @property
    def plays(self) -> bool:
        """Whether a criterion needs played episodes."""
        return self.margin is not None or self.return_ratio is not None

    @property
    def checks_behaviour(self) -> bool:
        """Whether a criterion concerns the variant's behaviour, not only its size."""
        return self.plays or self.agreement is not None


UNPROVEN_AGREEMENT = 0.95
"""Minimum agreement in place of played episodes, for policies without an environment."""


def applied(accept: Accept, manifest: PolicyManifest) -> Accept:
    """The criteria that can be checked for a policy.

    Without an environment nothing can be played: the criteria of play give way to agreement on the
    recorded states, which does not prove how the variant plays.
    """
    if manifest.environment is not None or not accept.plays:
        return accept
    unplayed = {"margin": None, "return_ratio": None, "robust": False, "condition_episodes": None}
    agreement = max(accept.agreement or 0.0, UNPROVEN_AGREEMENT)
    return accept.model_copy(update={**unplayed, "agreement": agreement})


class Frame(BaseModel):
    """Top level of a recipe; the keys of a step are those of its pass."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Slug = Field(description="name of the variant to make")
    description: str = Field(
        default="", max_length=500, description="one line on the variant, kept in its manifest"
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=2**31 - 1,
        description="seed of the passes that use random numbers or play",
    )
    teacher: Slug | None = Field(
        default=None,
        description="another policy of the repository, with the same observations and actions, "
        "whose Q-values `finetune` and `finetune_td` learn; null: those of the policy itself",
    )
    teacher_share: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description="share of the teacher in the Q-values that are learned; the rest are the "
        "policy's own",
    )
    network: list[dict[str, Any]] = Field(
        default_factory=list, description="passes on the torch network, in order, each with `pass`"
    )
    export: ExportParams = Field(
        default_factory=ExportParams, description="export to ONNX, between network and graph passes"
    )
    graph: list[dict[str, Any]] = Field(
        default_factory=list, description="passes on the ONNX graph, in order, each with `pass`"
    )
    store: Store = Field(default_factory=Store, description="storage of the file")
    search: SearchRecord | None = Field(
        default=None, description="the search that found the recipe, kept in the variant's manifest"
    )
    accept: Accept = Field(
        default_factory=Accept, description="criteria that the variant must meet to be published"
    )


@dataclass(frozen=True)
class Step:
    """One pass with its parameters.

    Attributes:
        place: its place in the file, such as `network[1].prune_channels`.
        name: the name of the pass.
        params: its validated parameters.
    """

    place: str
    name: str
    params: BaseModel

    @property
    def row(self) -> Pass:
        """The pass's row in the catalogue."""
        return CATALOGUE[self.name]


@dataclass(frozen=True)
class Recipe:
    """A validated recipe."""

    source: str
    name: str
    description: str
    seed: int
    network: tuple[Step, ...]
    export: ExportParams
    graph: tuple[Step, ...]
    accept: Accept
    store: Store
    search: SearchRecord | None = None
    teacher: str | None = None
    teacher_share: float = 1.0

    @property
    def taught_by(self) -> tuple[str, float] | None:
        """The name and share of another policy that teaches; None if the policy teaches itself."""
        return None if self.teacher is None else (self.teacher, self.teacher_share)

    @property
    def fingerprint(self) -> list[tuple[str, dict[str, Any]]]:
        """Steps with parameters: with checkpoints and seed, these determine the result."""
        export = ("export", self.export.model_dump(mode="json"))
        before, after = (
            [(step.name, step.params.model_dump(mode="json")) for step in steps]
            for steps in (self.network, self.graph)
        )
        store = [("store", self.store.model_dump(mode="json"))] if self.store.changes else []
        return [*before, export, *after, *store]


def load_recipe(path: Path) -> Recipe:
    """Reads a recipe file.

    Raises:
        ConfigError: the file is missing or not valid TOML, or has an unknown key, an invalid value,
            an unknown pass, a pass in the wrong phase, passes without a gate on the variant's
            behaviour, a teacher from whom no step learns, or a share without a teacher.
    """
    return _make_recipe(read_toml(path))


def parse_recipe(content: str, source: str) -> Recipe:
    """Parses a recipe from TOML text; errors, the same as `load_recipe`'s, name `source`."""
    return _make_recipe(parse_toml(content, source))


def _make_recipe(document: TomlDocument) -> Recipe:
    frame = document.validate(Frame)
    recipe = Recipe(
        source=document.source,
        name=frame.name,
        description=frame.description,
        seed=frame.seed,
        network=_steps("network", frame.network, document),
        export=frame.export,
        graph=_steps("graph", frame.graph, document),
        accept=frame.accept,
        search=frame.search,
        store=frame.store,
        teacher=frame.teacher,
        teacher_share=frame.teacher_share,
    )
    if (recipe.network or recipe.graph) and not frame.accept.checks_behaviour:
        problem = "a recipe with passes needs at least one of margin, return_ratio and agreement"
        raise document.error("accept", problem, ["accept"])
    if recipe.teacher is None and recipe.teacher_share < 1:
        problem = "expected a teacher as well, since this is the teacher's share"
        raise document.error("teacher_share", problem, ["teacher_share"])
    if recipe.teacher is not None and not any(map(_learns, recipe.network)):
        problem = "expected a step that learns: finetune, or finetune_td with teacher_weight"
        raise document.error("teacher", problem, ["teacher"])
    return recipe


def _learns(step: Step) -> bool:
    """Whether a step learns the teacher's Q-values."""
    weight: float = getattr(step.params, "teacher_weight", 0.0)
    return isinstance(step.params, DistillationParams) or weight > 0


def _steps(phase: Phase, tables: list[dict[str, Any]], document: TomlDocument) -> tuple[Step, ...]:
    """Validates the steps of a phase; errors number them from 1."""
    steps = []
    for index, table in enumerate(tables):
        place, keys = f"{phase}[{index + 1}]", (phase, index)
        values = dict(table)
        name = values.pop("pass", None)
        if not isinstance(name, str):
            near = nearest("pass", values)
            if name is None and near is not None:
                problem = f"unknown key {near!r}{suggestion(near, ['pass'])}"
                raise document.error(f"{place}.{near}", problem, [*keys, near])
            problem = f"expected one of {', '.join(names(phase))}"
            raise document.error(f"{place}.pass", problem, [*keys, "pass"])
        row = CATALOGUE.get(name)
        if row is None:
            listing = ", ".join(names(phase))
            problem = f"unknown pass {name!r}{suggestion(name, names())}; available: {listing}"
            raise document.error(place, problem, [*keys, "pass"])
        place = f"{place}.{name}"
        if row.phase != phase:
            problem = f"is a {row.phase} pass: move it to [[{row.phase}]]"
            raise document.error(place, problem, keys)
        params = document.validate(row.params, values, keys, place)
        steps.append(Step(place, name, params))
    return tuple(steps)
