from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from disturbed_states import Disturbed
from network_kinds import KINDS, draw_observations, layout_of
from slimq.core.calibration import CalibrationSet
from slimq.core.conditions.catalogue import kind_of, measuring
from slimq.core.errors import InvalidInputError
from slimq.core.observation import FrameStack, ObservationPart, ObservationSpec
from slimq.networks.layers import ConvLayer, Window
from slimq.networks.qnetwork import count_parameters
from slimq.networks.specification import ConvSpec, MLPSpec, QNetworkSpec
from slimq_compression.context import PassContext
from slimq_compression.network.disturbance import Disturb, conditions_of, make_disturber
from small_networks import DrawnStates, build_network

STILL = Disturb(probability=1.0, noise=0, brightness=0, bias=0)
FRAMES = ObservationSpec(
    dtype="uint8", shape=(4, 20, 22), low=0, high=255, stack=FrameStack(count=4)
)
STACKED_VECTORS = ObservationSpec(dtype="float32", shape=(3, 2), stack=FrameStack(count=3))
CODES = ObservationSpec(
    dtype="float32",
    shape=(5,),
    parts=(
        ObservationPart(name="speed", shape=(1,), low=-1, high=1),
        ObservationPart(name="level", shape=(1,), integer=True, low=0, high=9),
        ObservationPart(name="place", shape=(2,), categories=(4, 300)),
        ObservationPart(name="door", shape=(1,), integer=True, low=0, high=1),
    ),
)


def seen_by(observation: ObservationSpec, window: Window | None = None) -> QNetworkSpec:
    image = ConvSpec(convolutions=(ConvLayer(channels=1, kernel=3),), hidden=(), window=window)
    return QNetworkSpec(
        body=image if observation.dtype == "uint8" else MLPSpec(hidden=(2,)),
        observation_shape=observation.shape,
        observation_dtype=observation.dtype,
        observation_parts=observation.parts,
        actions=2,
    )


def record(observation: ObservationSpec, states: Any) -> CalibrationSet:
    """A calibration set of these states."""
    stack, count = observation.stack, len(states)
    parts = [states] if stack is None else np.split(states, stack.count, stack.axis + 1)
    frames = np.stack(parts, axis=1).reshape(-1, *observation.frame.shape)
    indices = np.arange(len(frames), dtype=np.int32).reshape(count, -1)
    return CalibrationSet(frames, indices, np.zeros((count, 2), np.float32))


def disturb(
    params: Disturb,
    observation: ObservationSpec,
    states: Any,
    seed: int = 0,
    window: Window | None = None,
) -> Disturbed:
    teacher = build_network("mlp")
    context = PassContext(
        teacher=teacher,
        observation=observation,
        calibration=record(observation, states),
        collect=DrawnStates("mlp"),
        parameters=count_parameters(teacher),
        seed=seed,
    )
    spec = seen_by(observation, window)
    made = make_disturber(params, context, spec, "finetune.disturb")
    return Disturbed(states, made(states.copy()))


def frames(count: int = 32, low: int = 0, high: int = 256) -> Any:
    shape = (count, *FRAMES.shape)
    return np.random.default_rng(1).integers(low, high, shape, dtype=np.uint8)


def vectors(observation: ObservationSpec, count: int = 400) -> Any:
    return np.random.default_rng(1).normal(size=(count, *observation.shape)).astype(np.float32)


def some(observation: ObservationSpec) -> Disturb:
    """Every disturbance of a kind of observations."""
    if kind_of(observation) == "frames":
        return Disturb(noise=9, brightness=9, contrast=0.2, shift=1)
    return Disturb(noise=0.1, bias=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_states_of_the_same_layout(kind: str) -> None:
    observation, states = layout_of(kind), draw_observations(kind, 40)
    first, again, other = (
        disturb(some(observation), observation, states, seed).after for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert first.dtype == states.dtype
    observation.check(first)
    if not measuring(observation.frame).any():
        np.testing.assert_array_equal(first, states)
    else:
        assert (first != states).any()
        assert (first != other).any()


@pytest.mark.parametrize("kind", KINDS)
def test_strengths_of_zero_change_nothing(kind: str) -> None:
    states = draw_observations(kind, 40)
    for params in (STILL, some(layout_of(kind)).model_copy(update={"probability": 0.0})):
        np.testing.assert_array_equal(disturb(params, layout_of(kind), states).after, states)


def test_only_the_window_of_a_network_is_disturbed() -> None:
    window = Window(channels=(2, 4), rows=(5, 15))
    done = disturb(Disturb(probability=1.0), FRAMES, frames(8, 50, 200), window=window)
    changed = (done.moved != 0).any(axis=(0, 3))
    assert changed[2:, 5:15].all()
    assert not changed[:2].any()
    assert not changed[:, :5].any()
    assert not changed[:, 15:].any()


def test_vectors_are_disturbed_in_shares_of_their_spread() -> None:
    observation = ObservationSpec(dtype="float32", shape=(3,))
    states = vectors(observation) * np.array([1.0, 100.0, 0.0], np.float32)
    spread = np.subtract(*np.percentile(states, (99, 1), axis=0))
    for name in ("noise", "bias"):
        moved = disturb(STILL.model_copy(update={name: 0.1}), observation, states).moved
        most = np.abs(moved).max(axis=0)
        assert (most <= 0.1 * spread + 1e-5).all()
        assert (most[:2] > 0.08 * spread[:2]).all()


def test_vectors_of_a_state_share_their_bias() -> None:
    states = vectors(STACKED_VECTORS)
    biased = disturb(STILL.model_copy(update={"bias": 0.5}), STACKED_VECTORS, states).moved
    np.testing.assert_allclose(biased, np.broadcast_to(biased[:, :1], biased.shape), atol=1e-6)
    noisy = disturb(STILL.model_copy(update={"noise": 0.5}), STACKED_VECTORS, states).moved
    assert (np.abs(noisy[:, 0] - noisy[:, 1]) > 1e-3).mean() > 0.9


def test_categories_and_flags_stay_and_integers_stay_integers_within_bounds() -> None:
    generator = np.random.default_rng(2)
    highs = np.array([1, 9, 3, 299, 1])
    states = generator.uniform(-1, 1, (300, 5)).astype(np.float32)
    states[:, 1:] = generator.integers(0, highs[1:] + 1, (300, 4))
    params = Disturb(probability=1.0, noise=2.0, bias=2.0)
    done = disturb(params, CODES, states)
    CODES.check(done.after)
    np.testing.assert_array_equal(done.after[:, 2:], states[:, 2:])
    assert (done.moved[:, :2] != 0).any(axis=0).all()
    assert (np.abs(done.after[:, 0]) <= 1).all()


def test_frames_alone_are_disturbed_by_default_twice_as_much_as_in_conditions() -> None:
    moved = disturb(Disturb(probability=1.0, noise=0), FRAMES, frames(64, 50, 200)).moved
    assert 8 < np.abs(moved).max() <= 16
    moved = disturb(Disturb(probability=1.0, brightness=0), FRAMES, frames(64, 50, 200)).moved
    assert np.abs(moved).max() == 8
    states = vectors(STACKED_VECTORS)
    assert not disturb(Disturb(probability=1.0), STACKED_VECTORS, states).moved.any()


@pytest.mark.parametrize(
    ("observation", "name"),
    [
        (FRAMES, "bias"),
        (STACKED_VECTORS, "brightness"),
        (STACKED_VECTORS, "contrast"),
        (STACKED_VECTORS, "shift"),
    ],
)
def test_a_strength_for_the_other_kind_is_refused(observation: ObservationSpec, name: str) -> None:
    states = frames(4) if observation is FRAMES else vectors(observation, 4)
    with pytest.raises(InvalidInputError, match=rf"finetune\.disturb\.{name}: expected nothing"):
        disturb(STILL.model_copy(update={name: 1}), observation, states)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["fog"], "finetune.conditions: expected standard, noise"),
        (["brightness=8"], "finetune.conditions.brightness: expected a condition for vectors"),
        (["sticky=2"], "finetune.conditions.sticky: expected a number from 0 to 1"),
        (["standard", "sticky=0.25"], "finetune.conditions: expected each condition once"),
        (["fog.py:fog"], "finetune.conditions: expected built-in conditions"),
    ],
)
def test_conditions_for_training_are_built_in_and_fit(names: list[str], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        conditions_of(names, STACKED_VECTORS, "finetune")
    chosen = conditions_of(["standard", "delayed=2"], STACKED_VECTORS, "finetune")
    labels = [one.label for one in chosen]
    assert labels == [
        "noise=0.01",
        "bias=0.01",
        "held=0.1",
        "sticky=0.25",
        "delayed=1",
        "delayed=2",
    ]
