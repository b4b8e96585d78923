from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from disturbed_states import Disturbed
from slimq.core.observation import FrameStack, ObservationSpec
from slimq.networks.frame_disturbance import FrameDisturbance, FrameDisturber

STACKED = ObservationSpec(
    dtype="uint8", shape=(4, 20, 22), low=0, high=255, stack=FrameStack(count=4)
)
COLOURS = ObservationSpec(dtype="uint8", shape=(20, 22, 3), low=0, high=255)
STACKED_COLOURS = ObservationSpec(
    dtype="uint8", shape=(2, 20, 22, 3), low=0, high=255, stack=FrameStack(count=2)
)
EVERYTHING = FrameDisturbance(shift=2, contrast=0.2, brightness=9, noise=9)
CPU = torch.device("cpu")


def make(
    strengths: FrameDisturbance, observation: ObservationSpec = STACKED, seed: int = 0, **other: Any
) -> FrameDisturber:
    generator = np.random.default_rng(seed)
    return FrameDisturber(strengths, observation, generator, CPU, **other)


def disturb(
    states: Any, observation: ObservationSpec = STACKED, seed: int = 0, **strengths: Any
) -> Disturbed:
    disturber = make(FrameDisturbance(**{"probability": 1.0} | strengths), observation, seed)
    after = disturber(torch.from_numpy(states.copy())).numpy()
    assert (after.dtype, after.shape) == (states.dtype, states.shape)
    return Disturbed(states, after)


def frames(
    count: int = 32, low: int = 0, high: int = 256, observation: ObservationSpec = STACKED
) -> Any:
    shape = (count, *observation.shape)
    return np.random.default_rng(1).integers(low, high, shape, dtype=np.uint8)


def test_the_same_seed_gives_the_same_states_and_a_restored_generator_the_next_ones() -> None:
    states = torch.from_numpy(frames())
    first, again = make(EVERYTHING), make(EVERYTHING)
    one = first(states.clone())
    assert torch.equal(one, again(states.clone()))
    assert not torch.equal(one, make(EVERYTHING, seed=1)(states.clone()))
    kept = first.generator.bit_generator.state
    two = first(states.clone())
    assert not torch.equal(one, two)
    resumed = make(EVERYTHING)
    resumed.generator.bit_generator.state = kept
    assert torch.equal(resumed(states.clone()), two)


@pytest.mark.parametrize(
    "strengths", [FrameDisturbance(), EVERYTHING.model_copy(update={"probability": 0.0})]
)
def test_without_strength_or_probability_nothing_changes(strengths: FrameDisturbance) -> None:
    states = torch.from_numpy(frames())
    assert torch.equal(make(strengths)(states.clone()), states)


@pytest.mark.parametrize("observation", [STACKED, COLOURS, STACKED_COLOURS])
def test_all_frames_of_a_state_are_shifted_alike_and_edges_repeated(
    observation: ObservationSpec,
) -> None:
    rows, columns = (1, 2) if observation is not COLOURS else (0, 1)
    height, width = 20, 22
    for axis, length in ((rows, height), (columns, width)):
        ramp = [1] * len(observation.shape)
        ramp[axis] = length
        values = (10 * np.arange(length)).astype(np.uint8)
        states = np.broadcast_to(values.reshape(ramp), (64, *observation.shape)).copy()
        middle = tuple(shape // 2 for shape in observation.shape)
        by = disturb(states, observation, shift=2).after[(slice(None), *middle)] // 10
        after = disturb(states, observation, shift=2).after
        assert set(by.astype(int) - length // 2) == {-2, -1, 0, 1, 2}
        for state, moved in zip(after, by.astype(int) - length // 2, strict=True):
            wanted = values[np.clip(np.arange(length) + moved, 0, length - 1)]
            assert (state == wanted.reshape(ramp)).all()


def test_frames_of_a_state_share_their_brightness() -> None:
    moved = disturb(frames(64, 20, 230), brightness=16).moved
    for state in moved:
        assert len(np.unique(state)) == 1
    assert -16 <= moved.min() < -8
    assert 8 < moved.max() <= 16


def test_noise_is_new_in_each_element_and_within_its_strength() -> None:
    moved = disturb(frames(64, 20, 230), noise=8).moved
    assert set(np.unique(moved)) == set(range(-8, 9))
    assert abs(moved.mean()) < 0.1
    strengths = np.abs(moved).reshape(64, -1).max(axis=1)
    assert set(strengths) == {2, 4, 6, 8}
    for newest, before in zip(moved[:, 3], moved[:, 2], strict=True):
        assert (newest != before).mean() > 0.3


@pytest.mark.parametrize("most", [255, 200])
def test_sums_saturate_at_the_bounds(most: int) -> None:
    observation = STACKED.model_copy(update={"high": most})
    states = np.where(frames() > 128, np.uint8(most), np.uint8(0))
    assert disturb(states, observation, noise=255, brightness=255, contrast=1).after.max() <= most
    for strengths in ({"brightness": 9}, {"noise": 9}):
        moved = disturb(states, observation, **strengths).moved
        assert (moved[states == most] <= 0).all()
        assert (moved[states == 0] >= 0).all()
        assert np.abs(moved).max() <= 9


def test_contrast_keeps_the_mean_and_scales_the_distance_from_it() -> None:
    states = np.broadcast_to(np.where(np.arange(22) < 11, 100, 140), (32, *STACKED.shape))
    after = disturb(states.astype(np.uint8), contrast=0.5).after
    distances = after[..., -1].astype(int) - after[..., 0]
    assert 20 <= distances.min() < 32
    assert 48 < distances.max() <= 60
    assert np.abs(after.mean(axis=(1, 2, 3)) - 120).max() <= 0.5


@pytest.mark.parametrize(
    "strengths", [{"shift": 2}, {"contrast": 0.5}, {"brightness": 100}, {"noise": 50}]
)
def test_each_disturbance_is_of_a_share_of_the_states(strengths: dict[str, float]) -> None:
    moved = disturb(frames(400, 100, 150), probability=0.25, **strengths).moved
    assert 0.15 < (moved != 0).any(axis=(1, 2, 3)).mean() < 0.35


def test_only_the_part_that_is_seen_is_disturbed_but_all_of_it_shifted() -> None:
    states = torch.from_numpy(frames(low=50, high=200))
    seen = (slice(2, 4), slice(5, 15))
    bright = FrameDisturbance(probability=1.0, brightness=9, noise=9)
    changed = (make(bright, seen=seen)(states.clone()) != states).any(0).any(-1)
    assert changed[2:, 5:15].all()
    assert int(changed.sum()) == changed[2:, 5:15].numel()
    moved = make(FrameDisturbance(probability=1.0, shift=2), seen=seen)(states.clone())
    assert (moved != states).any(0).any(-1).all()


@pytest.mark.parametrize("name", ["probability", "shift", "contrast", "brightness", "noise"])
def test_a_strength_out_of_range_is_refused_by_name(name: str) -> None:
    for value in (-1, 256):
        with pytest.raises(ValidationError, match=name):
            FrameDisturbance.model_validate({name: value})
