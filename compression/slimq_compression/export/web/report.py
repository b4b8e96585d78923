"""The report of an export to the web, which its page reads, too."""

from __future__ import annotations

from dataclasses import dataclass

from slimq.core.pages.drawing import Drawing
from slimq_compression.export.web.environments import PageEnvironment
from slimq_compression.export.web.evidence import WebEvidence


@dataclass(frozen=True)
class Layout:
    """An observation: its type and shape; axis and number of stacked frames, if there are any."""

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
        sha256: of this file.
        variant_bytes: size of the variant in the repository, which may be compressed.
        variant_sha256: of the variant's stored bytes.
        decoded: operators that were evaluated, as the runtime lacks them.
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
        seed: of the held-out episode; None for recorded states.
        steps: number of steps in the file.
        stacked: whether frames are single ones, to be stacked.
        return_: sum of the rewards of these steps.
        terminated: whether the environment ended the episode; a limit of steps does not.
        complete: whether these are all steps of the episode.
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
    """ONNX Runtime Web."""

    package: str
    version: str
    bytes: int


@dataclass(frozen=True)
class WebReport:
    """The report of an export to the web.

    Attributes:
        environment: its id; None if the policy has none.
        page_environment: how the page plays it; None if it only replays.
        total_bytes: of all files but this report.
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
