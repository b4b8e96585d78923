from __future__ import annotations

import numpy as np
import pytest

from layouts import LAYOUTS, frames_of, observations_of, spread_of
from slimq.core.conditions.catalogue import Condition
from slimq.core.conditions.passage import Situation, measure_spread, sensor_of
from slimq.core.environment import AtariPreprocessing, EnvironmentSpec
from slimq.core.observation import FrameStack, ObservationSpec

CARTPOLE = EnvironmentSpec(id="CartPole-v1")
STACKED = [name for name, spec in LAYOUTS.items() if spec.stack is not None]


def situation(name, strength, spec, environment=CARTPOLE, **changes):
    condition = Condition(name=name, strength=strength)
    return Situation(condition, environment, spec, 5, spread_of(spec), **changes)


def stack_of(spec, observation):
    """The frames of an observation, the oldest first."""
    parts = np.split(observation, spec.stack.count, spec.stack.axis)
    return [part.reshape(spec.frame.shape) for part in parts]


@pytest.mark.parametrize("layout", STACKED)
def test_a_frame_is_disturbed_once_and_stays_so_in_every_stack(layout):
    spec = LAYOUTS[layout]
    passage = situation("noise", 9 if spec.dtype == "uint8" else 0.3, spec).begin(5)
    frames = frames_of(spec)
    seen = [passage.observe(o) for o in observations_of(spec, frames)]
    count = spec.stack.count
    newest = [stack_of(spec, observation)[-1] for observation in seen]
    for step, observation in enumerate(seen):
        assert not np.array_equal(newest[step], frames[step])
        for back, frame in enumerate(reversed(stack_of(spec, observation))):
            expected = newest[step - back] if step >= back else np.zeros(spec.frame.shape)
            np.testing.assert_array_equal(frame, expected, err_msg=f"{back} of {count}")


@pytest.mark.parametrize("layout", ["frames stacked first", "frames stacked last"])
def test_a_lost_frame_leaves_the_stack_as_it_was(layout):
    spec = LAYOUTS[layout]
    passage = situation("lost", 0.5, spec).begin(5)
    frames = frames_of(spec, steps=40)
    arrived = [np.zeros(spec.frame.shape)] * spec.stack.count
    lost = 0
    for frame, observation in zip(frames, observations_of(spec, frames), strict=True):
        seen = stack_of(spec, passage.observe(observation))
        if np.array_equal(seen[-1], frame):
            arrived.append(frame)
        else:
            lost += 1
        np.testing.assert_array_equal(seen, arrived[-spec.stack.count :])
    assert 10 < lost < 30


def test_a_lost_frame_that_is_not_stacked_leaves_the_one_before():
    spec = LAYOUTS["frames"]
    passage = situation("lost", 1, spec).begin(5)
    frames = frames_of(spec)
    for frame in frames:
        np.testing.assert_array_equal(passage.observe(frame), frames[0])


def test_a_delay_shows_the_stack_of_earlier_steps():
    spec = LAYOUTS["frames stacked first"]
    passage = situation("delayed", 2, spec).begin(5)
    frames = frames_of(spec)
    for step, observation in enumerate(observations_of(spec, frames)):
        late = stack_of(spec, passage.observe(observation))[-1]
        np.testing.assert_array_equal(late, frames[max(0, step - 2)])


def test_a_condition_of_actions_leaves_observations_and_the_other_way_round():
    spec = LAYOUTS["bounded vector"]
    passage = situation("sticky", 1, spec).begin(5)
    (observation,) = frames_of(spec, steps=1)
    assert passage.observe(observation) is observation
    assert [passage.act(action) for action in (3, 4, 0)] == [3, 3, 3]
    passage = situation("noise", 1, spec).begin(5)
    assert [passage.act(action) for action in (3, 4, 0)] == [3, 4, 0]


def test_another_strength_draws_the_same_numbers():
    spec = LAYOUTS["unbounded vector"]
    (frame,) = frames_of(spec, steps=1)
    weak, strong = (situation("noise", s, spec).begin(5).observe(frame) for s in (0.1, 0.2))
    np.testing.assert_allclose(strong - frame, 2 * (weak - frame), rtol=1e-3, atol=1e-5)


def test_strength_0_does_not_even_clip_what_leaves_its_bounds():
    spec = LAYOUTS["bounded vector"]
    wild = np.array([5, -5, -0.0, 1, 0], np.float32)
    assert situation("noise", 0, spec).begin(5).observe(wild).tobytes() == wild.tobytes()
    assert situation("noise", 0.01, spec).begin(5).observe(wild)[:2].tolist() == [1, -1]


@pytest.mark.parametrize(
    ("own", "strength", "expected"),
    [(0.0, 0.25, 0.25), (0.25, 0.25, 0.4375), (0.25, 0.5, 0.625), (0.0, 1, 1.0)],
)
def test_sticky_actions_of_an_atari_game_are_left_to_the_emulator(own, strength, expected):
    pong = EnvironmentSpec(id="ALE/Pong-v5", preprocessing=AtariPreprocessing(sticky_actions=own))
    found = situation("sticky", strength, LAYOUTS["frames stacked first"], pong)
    assert found.played.preprocessing.sticky_actions == pytest.approx(expected)
    changes = {"sticky_actions": own}
    back = found.played.preprocessing.model_copy(update=changes)
    assert found.played.model_copy(update={"preprocessing": back}) == pong
    passage = found.begin(5)
    assert [passage.act(action) for action in range(9)] == list(range(9))


@pytest.mark.parametrize("own", [0.0, 0.1, 0.25])
def test_other_conditions_and_strength_0_play_in_the_same_environment(own):
    pong = EnvironmentSpec(id="ALE/Pong-v5", preprocessing=AtariPreprocessing(sticky_actions=own))
    spec = LAYOUTS["frames stacked first"]
    assert situation("sticky", 0, spec, pong).played is pong
    assert situation("noise", 4, spec, pong).played is pong
    assert situation("started", 4, spec, pong).played is pong
    assert situation("sticky", 0.25, spec).played is CARTPOLE


def test_the_channel_of_a_condition_of_ones_own_is_used():
    def make(sensor, strength, generator):
        return lambda frame: sensor.restore(frame + strength)

    spec = LAYOUTS["frames"]
    passage = situation("a.py:fog", 3, spec, channel=make).begin(5)
    frame = np.full(spec.shape, 254, np.uint8)
    assert np.unique(passage.observe(frame)).tolist() == [255]
    assert passage.act(2) == 2


def test_spread_is_between_the_1st_and_the_99th_percentile_of_each_element():
    spec = ObservationSpec(dtype="float32", shape=(2,))
    values = np.linspace(0, 100, 101)
    states = np.stack([values, 0 * values + 7], axis=1).astype(np.float32)
    assert measure_spread(states, spec) == [98.0, 0.0]


@pytest.mark.parametrize("axis", [0, 1])
def test_spread_of_stacked_vectors_is_that_of_the_newest(axis):
    shape = (3, 5) if axis == 0 else (5, 3)
    spec = ObservationSpec(dtype="float32", shape=shape, stack=FrameStack(axis=axis, count=3))
    frames = frames_of(spec, steps=200)
    states = np.stack(observations_of(spec, frames))
    alone = ObservationSpec(dtype="float32", shape=(5,))
    assert measure_spread(states, spec) == measure_spread(np.stack(frames), alone)


def test_images_have_no_spread_and_a_level_as_their_unit():
    spec = LAYOUTS["frames stacked first"]
    assert measure_spread(np.zeros((3, *spec.shape), np.uint8), spec) is None
    assert (sensor_of(spec, None).unit == 1).all()


def test_a_sensor_knows_the_bounds_and_integers_of_each_part():
    spec = LAYOUTS["parts"]
    sensor = sensor_of(spec, [2.0] * 11)
    assert sensor.low[:8].tolist() == [-1, 5, 0, 0, 0, 0, 0, 0]
    assert sensor.high[:8].tolist() == [2, 304, 1, 1, 255, 255, 255, 255]
    assert (sensor.low[10], sensor.high[10]) == (-3, 3)
    assert sensor.integers.tolist() == [True] * 8 + [False] * 3
    assert sensor.unit.tolist() == [0.0] * 4 + [2.0] * 7
