from __future__ import annotations

import numpy as np
import pytest

from layouts import LAYOUTS, frames_of, observations_of, spread_of
from slimq.core.conditions.catalogue import CONDITIONS, Condition, kind_of, measuring
from slimq.core.conditions.disturbances import Sensor
from slimq.core.conditions.passage import Situation, sensor_of
from slimq.core.environment import EnvironmentSpec

ENVIRONMENT = EnvironmentSpec(id="CartPole-v1")
STRONG = {
    "noise": 20.0, "brightness": 30.0, "bias": 0.5, "lost": 0.5, "held": 0.5, "sticky": 0.5,
    "delayed": 2.0, "blank": 0.5, "contrast": 0.5, "shift": 3.0, "blur": 1.5, "repeated": 0.5,
    "quantized": 60.0, "started": 9.0,
}  # fmt: skip
"""A strength of each condition that shows within a few steps."""
RANDOM = {name for name in STRONG if name not in ("delayed", "blur", "quantized")}
VALUED = ("noise", "bias", "quantized")
"""What changes single values, rather than whole frames or the time of arrival."""

APPLICABLE = [
    (name, layout)
    for name, row in CONDITIONS.items()
    for layout, spec in LAYOUTS.items()
    if kind_of(spec) in row.kinds
]
every_row_in_every_layout = pytest.mark.parametrize(("name", "layout"), APPLICABLE)


def situation(name, layout, strength=None):
    spec = LAYOUTS[layout]
    if strength is None:
        vectors = kind_of(spec) == "vectors" and name in ("noise", "quantized")
        strength = 0.4 if vectors else STRONG[name]
    condition = Condition(name=name, strength=strength)
    return Situation(condition, ENVIRONMENT, spec, 5, spread_of(spec))


def play(situation, seed=7):
    """The observations and actions of an episode, after the condition."""
    spec = situation.observation
    passage = situation.begin(seed)
    seen, actions = [], []
    for step, observation in enumerate(observations_of(spec, frames_of(spec))):
        seen.append(passage.observe(observation).copy())
        actions.append(passage.act(step % 5))
    return np.stack(seen), actions


def sensor(*shape, dtype="uint8", unit=1.0, low=0.0, high=255.0):
    whole = dtype != "float32"
    full = [np.full(shape, value) for value in (unit, low, high)]
    return Sensor(shape, np.dtype(dtype), *full, np.full(shape, whole))


def generator(seed=1):
    return np.random.default_rng(seed)


def channel(name, strength, *shape, **options):
    return CONDITIONS[name].observation(sensor(*shape, **options), strength, generator())


def test_every_row_has_a_strength_to_try():
    assert set(STRONG) == set(CONDITIONS)


@every_row_in_every_layout
def test_the_same_seed_gives_the_same_and_another_seed_something_else(name, layout):
    one, other = play(situation(name, layout)), play(situation(name, layout))
    np.testing.assert_array_equal(one[0], other[0])
    assert one[1] == other[1]
    spec = LAYOUTS[layout]
    still = name in VALUED and not measuring(spec.frame).any()
    if name in ("contrast", "shift") and layout == "one pixel":
        return
    if name not in RANDOM or still:
        return
    episodes = [play(situation(name, layout), seed) for seed in range(12)]
    assert len({(seen.tobytes(), tuple(actions)) for seen, actions in episodes}) > 1


@every_row_in_every_layout
def test_strength_0_changes_no_bit(name, layout):
    spec = LAYOUTS[layout]
    undisturbed = np.stack(observations_of(spec, frames_of(spec)))
    seen, actions = play(situation(name, layout, 0))
    assert seen.tobytes() == undisturbed.tobytes()
    assert actions == [step % 5 for step in range(len(actions))]
    if (make := CONDITIONS[name].observation) is not None:
        direct = make(sensor_of(spec, spread_of(spec)), 0.0, generator())
        frames = frames_of(spec)
        assert [direct(frame).tobytes() for frame in frames] == [f.tobytes() for f in frames]


@every_row_in_every_layout
@pytest.mark.parametrize("extreme", [False, True])
def test_shape_dtype_bounds_and_integers_are_kept(name, layout, extreme):
    spec = LAYOUTS[layout]
    seen, _ = play(situation(name, layout, CONDITIONS[name].most if extreme else None))
    assert seen.dtype == spec.dtype
    assert seen.shape[1:] == spec.shape
    np.testing.assert_array_equal(spec.check(seen), seen)
    allowed = sensor_of(spec, spread_of(spec))
    latest = seen
    if spec.stack is not None:
        parts = np.split(seen, spec.stack.count, spec.stack.axis + 1)
        latest = parts[-1].reshape(len(seen), *spec.frame.shape)
    assert (latest >= allowed.low).all()
    assert (latest <= allowed.high).all()


@every_row_in_every_layout
def test_what_the_environment_gave_is_not_modified(name, layout):
    spec = LAYOUTS[layout]
    observations = observations_of(spec, frames_of(spec))
    before = [observation.copy() for observation in observations]
    passage = situation(name, layout).begin(3)
    for observation in observations:
        observation.flags.writeable = False
        passage.observe(observation)
    np.testing.assert_array_equal(observations, before)


@every_row_in_every_layout
def test_what_has_arrived_does_not_change_when_the_environment_reuses_its_memory(name, layout):
    expected, _ = play(situation(name, layout))
    spec = LAYOUTS[layout]
    passage, memory = situation(name, layout).begin(7), np.zeros(spec.shape, spec.dtype)
    seen = []
    for step, observation in enumerate(observations_of(spec, frames_of(spec))):
        memory[:] = observation
        seen.append(passage.observe(memory).copy())
        passage.act(step % 5)
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", VALUED)
def test_categories_and_flags_keep_their_values(name, layout):
    spec = LAYOUTS[layout]
    if kind_of(spec) not in CONDITIONS[name].kinds:
        return
    named = ~measuring(spec.frame)
    make, frames = CONDITIONS[name].observation, frames_of(spec)
    disturb = make(sensor_of(spec, spread_of(spec)), 0.4, generator())
    for frame in frames:
        np.testing.assert_array_equal(disturb(frame)[named], frame[named])


def test_noise_is_within_its_strength_uniform_and_new_in_every_element():
    disturb = channel("noise", 4, 200, 100)
    frame = np.full((200, 100), 128, np.uint8)
    first, second = (disturb(frame).astype(int) - 128 for _ in range(2))
    assert set(np.unique(first)) == set(range(-4, 5))
    assert (first != second).mean() > 0.8
    inner = np.bincount(first.ravel() + 4)[1:-1] / first.size
    np.testing.assert_allclose(inner, 1 / 8, atol=0.01)


def test_noise_and_bias_are_in_units_of_each_elements_spread():
    unit = np.array([0.0, 1.0, 100.0])
    limits = [np.full(3, value) for value in (-np.inf, np.inf)]
    measured = Sensor((3,), np.dtype("float32"), unit, *limits, np.zeros(3, bool))
    vector = np.zeros(3, np.float32)
    noisy = [
        CONDITIONS["noise"].observation(measured, 0.5, generator(s))(vector) for s in range(99)
    ]
    np.testing.assert_allclose(np.abs(noisy).max(axis=0), 0.5 * unit, rtol=0.05)
    disturb = CONDITIONS["bias"].observation(measured, 0.5, generator())
    np.testing.assert_array_equal(np.abs(disturb(vector)), 0.5 * unit)
    np.testing.assert_array_equal(disturb(vector), disturb(vector))
    signs = {np.sign(CONDITIONS["bias"].observation(measured, 1, generator(s))(vector))[1]
             for s in range(20)}  # fmt: skip
    assert signs == {-1.0, 1.0}


def test_brightness_moves_all_frames_of_an_episode_alike_and_stops_at_the_bounds():
    make = CONDITIONS["brightness"].observation
    frame = np.array([[0, 100], [250, 255]], np.uint8)
    found = set()
    for seed in range(20):
        disturb = make(sensor(2, 2), 8, generator(seed))
        assert disturb(frame).tolist() == disturb(frame).tolist()
        found.add(str(disturb(frame).tolist()))
    assert found == {"[[8, 108], [255, 255]]", "[[0, 92], [242, 247]]"}


def test_contrast_scales_the_distance_from_the_mean():
    make = CONDITIONS["contrast"].observation
    frame = np.array([[80, 120], [100, 100]], np.uint8)
    found = {str(make(sensor(2, 2), 0.5, generator(s))(frame).tolist()) for s in range(20)}
    assert found == {"[[70, 130], [100, 100]]", "[[90, 110], [100, 100]]"}


def test_shift_repeats_the_edge_and_is_the_same_for_a_whole_episode():
    make = CONDITIONS["shift"].observation
    frame = np.arange(9, dtype=np.uint8).reshape(3, 3)
    padded = np.pad(frame, 1, mode="edge")
    windows = {padded[r : r + 3, c : c + 3].tobytes() for r in range(3) for c in range(3)}
    found = set()
    for seed in range(100):
        disturb = make(sensor(3, 3), 1, generator(seed))
        found.add(disturb(frame).tobytes())
        assert disturb(frame).tobytes() == disturb(frame).tobytes()
    assert found == windows


def test_a_shift_beyond_the_frame_leaves_its_edge():
    frame = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for seed in range(20):
        shifted = CONDITIONS["shift"].observation(sensor(3, 4), 84, generator(seed))(frame)
        assert set(shifted.ravel()) <= set(frame.ravel())


def test_the_image_of_a_frame_with_colors_is_its_two_longest_axes():
    assert sensor(12, 10, 3).image_axes == (0, 1)
    assert sensor(3, 10, 12).image_axes == (1, 2)
    assert sensor(2, 12, 10, 1).image_axes == (1, 2)
    frame = np.zeros((5, 5, 3), np.uint8)
    frame[2, 2] = 10, 100, 200
    blurred = channel("blur", 1, 5, 5, 3)(frame)
    assert blurred[2, 2, 0] < blurred[2, 2, 1] < blurred[2, 2, 2]
    assert (blurred[..., 0] <= 10).all()


def test_blur_is_a_gaussian_that_keeps_constant_frames():
    frame = np.zeros((9, 9), np.uint8)
    frame[4, 4] = 255
    weights = np.exp(-0.5 * np.arange(-3, 4) ** 2)
    weights /= weights.sum()
    expected = np.pad(np.rint(255 * np.outer(weights, weights)), 1)
    np.testing.assert_array_equal(channel("blur", 1, 9, 9)(frame), expected)
    constant = np.full((9, 9), 77, np.uint8)
    np.testing.assert_array_equal(channel("blur", 20, 9, 9)(constant), constant)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_lost_frame_does_not_arrive_and_the_first_always_does(share):
    disturb = channel("lost", share, 1, 1)
    frames = [np.full((1, 1), step % 256, np.uint8) for step in range(2_000)]
    arrived = [disturb(frame) for frame in frames]
    assert arrived[0] is not None
    assert np.mean([frame is None for frame in arrived[1:]]) == pytest.approx(share, abs=0.03)
    assert all(a is None or a.item() == f.item() for a, f in zip(arrived, frames, strict=True))


def test_a_blank_frame_is_as_low_as_can_be():
    frame = np.full((2, 2), 9, np.uint8)
    blank = channel("blank", 0.5, 2, 2, low=3.0)
    assert {str(blank(frame).tolist()) for _ in range(50)} == {
        "[[9, 9], [9, 9]]",
        "[[3, 3], [3, 3]]",
    }
    unbounded = channel("blank", 1, 2, 2, low=-np.inf)
    assert not unbounded(frame).any()


def test_a_repeated_frame_is_the_one_that_arrived_before():
    disturb = channel("repeated", 0.5, 1, 1)
    arrived = [disturb(np.full((1, 1), step, np.uint8)).item() for step in range(200)]
    assert arrived[0] == 0
    for step in range(1, 200):
        assert arrived[step] in (step, arrived[step - 1])
    assert 0.35 < np.mean(np.diff(arrived) == 0) < 0.65
    stuck = channel("repeated", 1, 1, 1)
    assert {stuck(np.full((1, 1), step, np.uint8)).item() for step in range(9)} == {0}


def test_a_held_element_keeps_what_arrived_before_whatever_the_others_do():
    disturb = channel("held", 0.5, 2, dtype="float32", low=-np.inf, high=np.inf)
    arrived = np.stack([disturb(np.full(2, step, np.float32)) for step in range(400)])
    assert arrived[0].tolist() == [0, 0]
    for step in range(1, 400):
        assert all(a in (step, b) for a, b in zip(arrived[step], arrived[step - 1], strict=True))
    kept = np.diff(arrived, axis=0) == 0
    assert abs(kept.mean() - 0.5) < 0.06
    assert 0.35 < (kept[:, 0] != kept[:, 1]).mean() < 0.65


def test_quantized_values_are_multiples_of_the_step():
    levels = channel("quantized", 10, 256)(np.arange(256, dtype=np.uint8))
    assert set(np.unique(levels)) == set(range(0, 251, 10)) | {255}
    disturb = channel("quantized", 0.5, 4, dtype="float32", unit=2.0, low=-9.0, high=9.0)
    assert disturb(np.array([0.4, 0.6, -1.7, 8.9], np.float32)).tolist() == [0, 1, -2, 9]


def test_delayed_frames_arrive_late_and_the_first_meanwhile():
    disturb = channel("delayed", 2, 1, 1)
    arrived = [disturb(np.full((1, 1), step, np.uint8)).item() for step in range(6)]
    assert arrived == [0, 0, 0, 1, 2, 3]


def test_a_sticky_action_is_the_one_that_was_taken_before():
    act = CONDITIONS["sticky"].action(400, 0.25, generator())
    taken = [act(action) for action in range(400)]
    assert taken[0] == 0
    for step in range(1, 400):
        assert taken[step] in (step, taken[step - 1])
    assert abs(np.mean(np.diff(taken) == 0) - 0.25) < 0.06
    stuck = CONDITIONS["sticky"].action(9, 1, generator())
    assert {stuck(action) for action in range(9)} == {0}


def test_started_takes_random_actions_only_at_the_beginning():
    lengths = []
    for seed in range(60):
        act = CONDITIONS["started"].action(2, 10, generator(seed))
        taken = [act(9) for _ in range(30)]
        random = [step for step, action in enumerate(taken) if action != 9]
        assert random == list(range(len(random)))
        assert set(taken) <= {0, 1, 9}
        lengths.append(len(random))
    assert set(lengths) == set(range(11))


@pytest.mark.parametrize("name", ["sticky", "started"])
def test_a_single_action_stays_the_only_one(name):
    act = CONDITIONS[name].action(1, CONDITIONS[name].most, generator())
    assert {act(0) for _ in range(1_200)} == {0}


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_values_beyond_what_the_dtype_holds_are_clipped(dtype, sign):
    from slimq.core.observation import ObservationSpec

    allowed = sensor_of(ObservationSpec(dtype=dtype, shape=(3,)), (1.0,) * 3)
    restored = allowed.restore(np.array([1e300, 1.0, 0.0]) * sign)
    spec = ObservationSpec(dtype=dtype, shape=(3,))
    np.testing.assert_array_equal(spec.check(restored)[0], restored)
    extreme = np.finfo(dtype) if dtype == "float32" else np.iinfo(dtype)
    assert restored[0] == (extreme.max if sign > 0 else extreme.min)


def test_a_long_vector_is_disturbed_at_once():
    long = np.zeros(1_000_000, np.float32)
    disturb = channel("noise", 0.5, len(long), dtype="float32", low=-np.inf, high=np.inf)
    assert np.abs(disturb(long)).max() == pytest.approx(0.5, rel=1e-3)
