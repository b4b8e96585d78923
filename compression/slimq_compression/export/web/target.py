"""Exports a variant as a page: model, runtime, preprocessing, environment or recorded episode."""

from __future__ import annotations

import hashlib
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from slimq import __version__
from slimq.core.errors import InvalidInputError
from slimq.core.observation import ObservationSpec
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.pages import SHARED
from slimq.core.pages.drawing import drawing
from slimq.core.repository import Repository
from slimq.core.seeds import HELD_OUT
from slimq_compression.export.options import Options
from slimq_compression.export.subject import Subject
from slimq_compression.export.web import runtime
from slimq_compression.export.web.environments import page_environment
from slimq_compression.export.web.episode import (
    EpisodeFile,
    Recording,
    episode_file,
    record_episode,
    record_states,
)
from slimq_compression.export.web.evidence import web_evidence
from slimq_compression.export.web.operators import LackingError, WebModel, refuse_operator, runnable
from slimq_compression.export.web.report import (
    Layout,
    ModelFile,
    RecordedEpisode,
    RuntimeFiles,
    WebReport,
)

MODEL, EPISODE, RUNTIME = "model.onnx", "episode.bin", "runtime"
PAGE = resources.files(__package__) / "page"


def export_web(
    repository: Repository, subject: Subject, folder: Path, options: Options
) -> WebReport:
    """Writes the files of a web export into an empty folder.

    Raises:
        InvalidInputError: the runtime lacks an operator of the variant, `options.runtime` is not
            the runtime, or there is nothing to play or to replay.
        ConfigError: the runtime cannot be fetched.
        EnvironmentFailure, MissingExtraError: the environment cannot be played.
    """
    try:
        model = runnable(subject.content)
    except LackingError as error:
        raise refuse_operator(repository, subject, error) from None
    found = runtime.find_runtime(options.runtime)
    recorded = episode_file(_record(subject, model), subject.policy.observation)
    for pages in (PAGE, SHARED):
        _copy_page(pages, folder)
    vendored = folder / RUNTIME
    vendored.mkdir()
    for name, content in {**found.files, **runtime.licences()}.items():
        (vendored / name).write_bytes(content)
    (folder / MODEL).write_bytes(model.content)
    (folder / EPISODE).write_bytes(recorded.content)
    policy, variant = subject.policy, subject.variant
    return WebReport(
        target="web",
        policy=policy.name,
        variant=variant.name,
        slimq=__version__,
        environment=policy.environment.id if policy.environment else None,
        observation=_layout(policy.observation),
        actions=tuple(policy.actions),
        model=ModelFile(
            path=MODEL,
            bytes=len(model.content),
            sha256=hashlib.sha256(model.content).hexdigest(),
            variant_bytes=variant.model.bytes,
            variant_sha256=variant.model.sha256,
            decoded=model.decoded,
        ),
        runtime=RuntimeFiles(runtime.PACKAGE, runtime.VERSION, found.bytes),
        page_environment=page_environment(policy.environment) if policy.environment else None,
        drawing=drawing(policy),
        episode=_describe(recorded),
        evidence=web_evidence(repository, subject),
        total_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    )


def _record(subject: Subject, model: WebModel) -> Recording:
    policy = subject.policy
    runs = OnnxPolicy(model.content, policy.observation, len(policy.actions), subject.name)
    if policy.environment is not None:
        return record_episode(policy.environment, runs, HELD_OUT.start)
    if subject.calibration is None:
        expected = "a policy with an environment or recorded states"
        raise InvalidInputError("policy", expected, policy.name)
    return record_states(subject.calibration, policy.observation, runs)


def _copy_page(source: Traversable, folder: Path) -> None:
    """Copies the page's static files, which are the same for every policy."""
    for entry in source.iterdir():
        if entry.is_dir():
            (folder / entry.name).mkdir()
            _copy_page(entry, folder / entry.name)
        else:
            (folder / entry.name).write_bytes(entry.read_bytes())


def _layout(spec: ObservationSpec) -> Layout:
    stack = spec.stack
    return Layout(
        spec.dtype, spec.shape, stack.axis if stack else None, stack.count if stack else 1
    )


def _describe(recorded: EpisodeFile) -> RecordedEpisode:
    recording = recorded.recording
    return RecordedEpisode(
        path=EPISODE,
        bytes=len(recorded.content),
        seed=recording.seed,
        steps=len(recording),
        stacked=recorded.stacked,
        return_=float(recording.rewards.sum(dtype=float)),
        terminated=recording.terminated,
        complete=recording.complete,
    )
