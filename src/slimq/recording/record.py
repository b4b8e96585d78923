"""Records variants of a policy, playing one episode of the same seed side by side."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from slimq.core.atomic import naming, write_atomically
from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import CheckFailedError, InvalidInputError, NotFoundError
from slimq.core.manifest import PolicyManifest, is_stale, require_environment
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.repository import Repository
from slimq.core.seeds import HELD_OUT
from slimq.evaluation.conditions import Trial, make_trials, parse_conditions
from slimq.evaluation.returns import require_finite
from slimq.recording.drawing import draw
from slimq.recording.episode import Moment, Played, check_seed, play_variant, replay, screen_fps
from slimq.recording.layout import MAX_VARIANTS, Layout, Scene, Subject, make_scene, measure
from slimq.recording.video import choose_fps, find_encoder

HOLD_SECONDS = 1.0
"""Time for which the last picture stands."""


class Progress(Protocol):
    """Receives the progress of a recording."""

    def begin(self, task: str, total: int | None) -> None:
        """Called when an episode is played, or the pictures are drawn; total: steps, if known."""
        ...

    def advance(self) -> None:
        """Called after each step."""
        ...

    def end(self) -> None:
        """Called when the task is done, or has failed."""
        ...


@dataclass(frozen=True)
class RecordingSettings:
    """Settings of a recording.

    Attributes:
        seed: of the episode, from the held-out, selection or collection range.
        epsilon: probability of a uniformly random action.
        condition: a disturbance to play under, such as `noise=4`; None for undisturbed.
        max_steps: agent steps after which the episode is cut; None for its whole length.
        fps: pictures per second; None for the environment's own.
        width: of the picture in pixels; None for panels of the default width.
    """

    seed: int = HELD_OUT.start
    epsilon: float = 0.01
    condition: str | None = None
    max_steps: int | None = None
    fps: float | None = None
    width: int | None = None


@dataclass(frozen=True)
class Recording:
    """A recording that was written.

    Attributes:
        policy: its name.
        environment: the environment's id.
        output: the file.
        bytes: its size.
        width: of the picture in pixels.
        height: of the picture in pixels.
        fps: pictures per second.
        pictures: number of pictures.
        seed: of the episodes.
        seeds: name of the range of the seed.
        condition: the disturbance; None if undisturbed.
        differing_steps: steps at which the greedy actions differ.
        steps: length of the longest episode.
        returns: by variant; of the part that is shown, if it was cut.
        lengths: agent steps by variant.
        terminated: by variant, whether the environment ended the episode.
    """

    policy: str
    environment: str
    output: Path
    bytes: int
    width: int
    height: int
    fps: float
    pictures: int
    seed: int
    seeds: str
    condition: str | None
    differing_steps: int
    steps: int
    returns: dict[str, float]
    lengths: dict[str, int]
    terminated: dict[str, bool]


def record(
    repository: Repository,
    policy: str,
    variants: Sequence[str],
    output: Path,
    settings: RecordingSettings,
    progress: Progress,
) -> Recording:
    """Plays, draws and encodes; the file is written at once, at the end.

    Args:
        repository: of the policy.
        policy: its name.
        variants: their names, from left to right; empty for the baseline and the default.
        output: the file, `.mp4` or `.gif`.
        settings: settings of the recording.
        progress: receives the progress.

    Raises:
        NotFoundError: the policy or a variant does not exist.
        InvalidInputError: a setting is out of range, or there is no environment that renders.
        MissingExtraError: a library is not installed.
        OSError: the file cannot be written; none is left, or the old one.
    """
    encode = find_encoder(output)
    manifest = repository.policy(policy)
    environment = require_environment(manifest, "slimq record")
    seeds = check_seed(settings.seed)
    names = choose_variants(repository, manifest, variants)
    check_folder(output)
    trial = _make_trial(repository, manifest, settings.condition)
    spec = _shortened(trial.situation.played if trial else environment, settings.max_steps)
    fps = choose_fps(output, settings.fps, screen_fps(spec))
    subjects = [
        _play(repository, manifest, name, spec, trial, settings, progress) for name in names
    ]
    said = [f"{seeds} seed {settings.seed}", f"epsilon {settings.epsilon:g}"]
    said += [] if trial is None else [f"under {trial.condition.label}"]
    scene = make_scene(policy, environment, "   ".join(said), subjects, manifest.actions)
    film = _Film(scene, spec, settings, trial, progress, round(HOLD_SECONDS * fps))
    with contextlib.closing(film.pictures()) as pictures:
        content = encode(pictures, fps)
    write_atomically(output, content)
    episodes = [subject.episode for subject in subjects]
    return Recording(
        policy,
        environment.id,
        output,
        len(content),
        film.layout.width if film.layout else 0,
        film.layout.height if film.layout else 0,
        fps,
        film.count,
        settings.seed,
        seeds,
        trial.condition.label if trial else None,
        int(scene.differs.sum()),
        len(scene.differs),
        {episode.variant: episode.return_ for episode in episodes},
        {episode.variant: len(episode) for episode in episodes},
        {episode.variant: episode.terminated for episode in episodes},
    )


def choose_variants(
    repository: Repository, manifest: PolicyManifest, variants: Sequence[str]
) -> list[str]:
    """The variants to record, each once.

    Raises:
        NotFoundError: one does not exist.
        InvalidInputError: there are too many.
    """
    existing = repository.variants(manifest.name)
    wanted = variants or [manifest.baseline_variant, manifest.default_variant]
    names = list(dict.fromkeys(wanted))
    for name in names:
        if name not in existing:
            raise NotFoundError("variant", name, existing)
    if len(names) > MAX_VARIANTS:
        received = f"{len(names)}: {', '.join(names)}"
        raise InvalidInputError("--variants", f"at most {MAX_VARIANTS}", received)
    return names


def check_folder(output: Path) -> None:
    """Checks that a file can be created, before hours are spent on its content.

    Raises:
        OSError: its folder does not exist or cannot be written to.
    """
    if output.is_dir():
        raise InvalidInputError("--output", "a file", f"{output}, a folder")
    probe = output.with_name(f".{output.name}.probe")
    with naming(output):
        probe.touch()
        probe.unlink(missing_ok=True)


def _make_trial(
    repository: Repository, manifest: PolicyManifest, condition: str | None
) -> Trial | None:
    if condition is None:
        return None
    found = parse_conditions(condition, manifest)
    if len(found) != 1:
        raise InvalidInputError("--condition", "one disturbance", condition)
    return make_trials(repository, manifest, found)[0]


def _shortened(spec: EnvironmentSpec, steps: int | None) -> EnvironmentSpec:
    if steps is None:
        return spec
    if steps < 1:
        raise InvalidInputError("--max-steps", "at least 1", str(steps))
    limit = spec.max_episode_steps
    return spec.model_copy(
        update={"max_episode_steps": steps if limit is None else min(steps, limit)}
    )


def _play(
    repository: Repository,
    manifest: PolicyManifest,
    name: str,
    spec: EnvironmentSpec,
    trial: Trial | None,
    settings: RecordingSettings,
    progress: Progress,
) -> Subject:
    variant, content = repository.read_model(manifest.name, name)
    label = f"{manifest.name}/{name}"
    if is_stale(variant, manifest):
        remedy = f"run slimq compress {manifest.name} {name}"
        raise CheckFailedError(f"{label} was made from another checkpoint; {remedy}")
    q_function = OnnxPolicy(content, manifest.observation, len(manifest.actions), label)
    progress.begin(f"{label} plays", None)
    try:
        episode: Played = play_variant(
            spec,
            name,
            require_finite(q_function, label),
            settings.seed,
            epsilon=settings.epsilon,
            begin=trial.situation.begin if trial else None,
            on_step=progress.advance,
        )
    finally:
        progress.end()
    return Subject(episode, variant.model.bytes)


@dataclass
class _Film:
    """The pictures of a scene, one after the other."""

    scene: Scene
    spec: EnvironmentSpec
    settings: RecordingSettings
    trial: Trial | None
    progress: Progress
    held: int
    layout: Layout | None = None
    count: int = 0

    def pictures(self) -> Generator[Image.Image, None, None]:
        """Yields every picture; the last one several times."""
        scene, begin = self.scene, self.trial.situation.begin if self.trial else None
        episodes = [subject.episode for subject in scene.subjects]
        self.progress.begin("pictures", len(scene.differs) + 1)
        last: tuple[int, tuple[Moment, ...]] | None = None
        try:
            replayed = replay(self.spec, episodes, self.settings.seed, begin=begin)
            with contextlib.closing(replayed):
                for step, moments in enumerate(replayed):
                    yield self._draw(moments, step)
                    self.progress.advance()
                    last = step, moments
            for _ in itertools.repeat(None, self.held - 1):
                if last is not None:
                    yield self._draw(last[1], last[0])
        finally:
            self.progress.end()

    def _draw(self, moments: tuple[Moment, ...], step: int) -> Image.Image:
        if self.layout is None:
            height, width, _ = moments[0].picture.shape
            self.layout = measure(self.scene, (height, width), self.settings.width)
        self.count += 1
        return draw(self.scene, self.layout, moments, step)
