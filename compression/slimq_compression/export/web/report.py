"""The report of a web export, which its page reads, too."""

from __future__ import annotations

from dataclasses import dataclass

from slimq.core.pages.drawing import Drawing
from slimq_compression.export.web.environments import PageEnvironment
from slimq_compression.export.web.evidence import WebEvidence


@dataclass(frozen=True)
class Layout:
    """Layout of an observation.

    Attributes:
        dtype: type of its elements.
        shape: shape of one observation.
        axis: axis along which frames are stacked; None if they are not.
        count: number of stacked frames; 1 if they are not.
    """

    dtype: str
    shape: tuple[int, ...]
    axis: int | None
    count: int


@dataclass(frozen=True)
class ModelFile:
    """The model that the page runs.

    Attributes:
        path: name of the file.
        bytes: its size, uncompressed.
        sha256: SHA-256 of this file.
        variant_bytes: size of the variant in the repository, which may be compressed.
        variant_sha256: SHA-256 of the variant's stored bytes.
        decoded: operators that were evaluated on export, because the runtime lacks them.
    """

    path: str
    bytes: int
    sha256: str
    variant_bytes: int
    variant_sha256: str
    decoded: tuple[str, ...]


@dataclass(frozen=True)
class RecordedEpisode:
    """The content of `episode.bin`.

    Attributes:
        path: name of the file.
        bytes: its size.
        seed: seed of the held-out episode; None for recorded states.
        steps: number of steps in the file.
        stacked: whether the file has single frames, which the page stacks.
        return_: sum of the rewards of these steps.
        terminated: whether the environment ended the episode; False if it was truncated.
        complete: whether the file has all steps of the episode.
    """

    path: str
    bytes: int
    seed: int | None
    steps: int
    stacked: bool
    return_: float
    terminated: bool
    complete: bool


@dataclass(frozen=True)
class RuntimeFiles:
    """The npm package of ONNX Runtime Web, and the bytes of its files."""

    package: str
    version: str
    bytes: int


@dataclass(frozen=True)
class WebReport:
    """The report of an export to the web.

    Attributes:
        environment: the environment's id; None if the policy has none.
        page_environment: the environment's port to the page; None if the page only replays.
        total_bytes: size of all files but this report.
    """

    target: str
    policy: str
    variant: str
    slimq: str
    environment: str | None
    observation: Layout
    actions: tuple[str, ...]
    model: ModelFile
    runtime: RuntimeFiles
    page_environment: PageEnvironment | None
    drawing: Drawing
    episode: RecordedEpisode
    evidence: WebEvidence
    total_bytes: int
