"""Recorded episodes: what is in the file, and where it is cut off."""

from __future__ import annotations

import gzip
from typing import Any

import numpy as np
import pytest

from players import balance
from slimq.core.environment import EnvironmentSpec
from slimq.core.observation import FrameStack, ObservationSpec
from slimq_compression.export.web.episode import (
    EpisodeFile,
    Recording,
    episode_file,
    newest_frames,
    record_episode,
)

CARTPOLE = ObservationSpec(dtype="float32", shape=(4,))
FRAMES = ObservationSpec(dtype="uint8", shape=(3, 6, 5), stack=FrameStack(count=3))
LAST = ObservationSpec(dtype="uint8", shape=(6, 5, 4), stack=FrameStack(axis=2, count=2))


def unpack(file: EpisodeFile, frame: tuple[int, ...], dtype: str) -> dict[str, Any]:
    """Reads a file as its module documents it."""
    content, steps = gzip.decompress(file.content), len(file.recording)
    width = int(np.prod(frame)) * np.dtype(dtype).itemsize
    changes = np.frombuffer(content[: steps * width], np.uint8).reshape(steps, width)
    frames = np.bitwise_xor.accumulate(changes, axis=0).view(np.dtype(dtype)).reshape(-1, *frame)
    rest = content[steps * width :]
    return {
        "frames": frames,
        "actions": np.frombuffer(rest[: 2 * steps], "<u2"),
        "rewards": np.frombuffer(rest[2 * steps : 6 * steps], "<f4"),
        "q_values": np.frombuffer(rest[6 * steps :], "<f4").reshape(steps, -1),
    }


def make_stacks(layout: ObservationSpec, steps: int) -> tuple[Any, Any]:
    """Random frames, and the observations that they make from an episode's start on."""
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (steps, *layout.frame.shape), dtype=np.uint8)
    before, observations = layout.padding(), []
    for frame in frames:
        before = layout.push(before, frame[np.newaxis])
        observations.append(before[0])
    return frames, np.stack(observations)


def make_recording(observations: Any, seed: int | None = 1) -> Recording:
    steps = len(observations)
    generator = np.random.default_rng(1)
    q_values = generator.normal(size=(steps, 3)).astype(np.float32)
    rewards = generator.normal(size=steps).astype(np.float32)
    return Recording(seed, observations, q_values.argmax(1), rewards, q_values, True, True)


def test_an_episode_is_played_greedily_to_its_end() -> None:
    recording = record_episode(EnvironmentSpec(id="CartPole-v1", max_episode_steps=90), balance, 7)
    assert (len(recording), recording.rewards.sum(), recording.complete) == (90, 90, True)
    assert recording.terminated is False
    assert np.array_equal(recording.actions, balance(recording.observations).argmax(axis=1))
    file = episode_file(recording, CARTPOLE)
    found = unpack(file, (4,), "<f4")
    assert np.array_equal(found["frames"], recording.observations)
    assert np.array_equal(found["actions"], recording.actions)
    assert np.array_equal(found["q_values"], recording.q_values)


@pytest.mark.parametrize("layout", [FRAMES, LAST])
def test_only_the_newest_frame_of_a_step_is_stored(layout: ObservationSpec) -> None:
    frames, observations = make_stacks(layout, 20)
    recording = make_recording(observations)
    file = episode_file(recording, layout)
    assert file.stacked
    found = unpack(file, layout.frame.shape, "u1")
    assert np.array_equal(found["frames"], frames)
    assert np.array_equal(found["rewards"], recording.rewards)


def test_observations_that_are_no_stacks_are_stored_whole() -> None:
    _, observations = make_stacks(FRAMES, 20)
    observations[5, 0] ^= 1
    assert newest_frames(observations, FRAMES) is None
    file = episode_file(make_recording(observations), FRAMES)
    assert not file.stacked
    assert np.array_equal(unpack(file, FRAMES.shape, "u1")["frames"], observations)


def test_a_long_episode_is_cut_off() -> None:
    _, observations = make_stacks(FRAMES, 200)
    recording = make_recording(observations)
    whole = episode_file(recording, FRAMES)
    assert whole.recording.complete
    file = episode_file(recording, FRAMES, max_bytes=3000)
    assert 1000 < len(file.content) <= 3000
    assert not file.recording.complete
    assert not file.recording.terminated
    found = unpack(file, FRAMES.frame.shape, "u1")
    assert np.array_equal(found["actions"], recording.actions[: len(file.recording)])


def test_the_same_episode_gives_the_same_bytes() -> None:
    _, observations = make_stacks(FRAMES, 5)
    files = [episode_file(make_recording(observations), FRAMES).content for _ in range(2)]
    assert files[0] == files[1]
