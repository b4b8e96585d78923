"""Exported policies on emulated microcontrollers: the same bits, the same actions, a whole game."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from c_exports import BOUND, export, needs_boards
from places import POLICIES
from slimq.core.calibration import CalibrationSet
from slimq.core.observation import Observations
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.qfunction import QValues
from slimq.core.repository import Repository
from slimq.core.seeds import HELD_OUT
from slimq.environments.rollout import Episode, play_episodes
from slimq_compression.export.c.compilers import build_library
from slimq_compression.export.c.golden import choose, places
from slimq_compression.export.c.host import HostPolicy
from slimq_compression.export.emulator.boards import BOARDS
from slimq_compression.export.emulator.player import EmulatedPolicy, play_on
from slimq_compression.export.layers.tensors import ELEMENTS

pytestmark = [pytest.mark.slow, needs_boards]
CASES = [
    ("cortex-m4", "pong", "tiny", 1000),
    ("cortex-m4", "pong", "pruned-int8", 20),
    ("cortex-m4", "pong", "deep-compression", 20),
    ("cortex-m4", "cartpole", "int8", 1000),
    ("cortex-m4", "cartpole", "int8-dynamic", 1000),
    ("cortex-m4", "minigrid-empty", "whole-int8", 1000),
    ("cortex-m3", "pong", "tiny", 100),
    ("cortex-m3", "cartpole", "micro", 1000),
    ("cortex-m0", "cartpole", "micro", 1000),
    ("cortex-m0", "frozenlake", "fitted-128-4bit", 1000),
    ("cortex-m0", "mountaincar", "whole-int8", 200),
]


@contextlib.contextmanager
def emulated(
    core: str, policy: str, variant: str, folder: Path, optimize: str = "size"
) -> Iterator[tuple[EmulatedPolicy, HostPolicy]]:
    """The export on a board and on this machine."""
    report = export(policy, variant, folder, vectors=10)
    manifest = Repository(POLICIES).policy(policy)
    element, actions = ELEMENTS[manifest.observation.dtype], len(manifest.actions)
    library = folder.absolute() / "policy.so"
    assert build_library(folder.absolute(), "policy", library)
    host = HostPolicy(library, "policy", report.ram.state, actions)
    with play_on(BOARDS[core], folder, "policy", element, actions, optimize) as device:
        yield device, host


def recorded(policy: str, count: int) -> CalibrationSet:
    repository = Repository(POLICIES)
    states = repository.calibration(repository.policy(policy))
    assert states is not None
    return choose(states, places(len(states), count))


def reference(policy: str, variant: str, states: CalibrationSet) -> QValues:
    repository = Repository(POLICIES)
    manifest = repository.policy(policy)
    _, content = repository.read_model(policy, variant)
    model = OnnxPolicy(content, manifest.observation, len(manifest.actions))
    observations = states.observations(manifest.observation)
    return np.concatenate([model(one[np.newaxis]) for one in observations])


@pytest.mark.parametrize(("core", "policy", "variant", "count"), CASES)
def test_a_device_returns_the_bits_of_this_machine(
    core: str, policy: str, variant: str, count: int, tmp_path: Path
) -> None:
    states = recorded(policy, count)
    with emulated(core, policy, variant, tmp_path / "export") as (device, host):
        found = device.on_states(states)
        assert found.tobytes() == host.on_states(states).tobytes()
    expected = reference(policy, variant, states)
    difference = np.abs(found - expected).max()
    assert difference <= BOUND * np.ptp(expected)
    ordered = np.sort(expected, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 2 * difference
    assert len(expected) == count
    assert clear.mean() > 0.5
    assert (found.argmax(axis=1) == expected.argmax(axis=1))[clear].all()


def test_a_folder_may_be_named_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    states = recorded("cartpole", 5)
    with emulated("cortex-m0", "cartpole", "micro", Path("export")) as (device, host):
        assert device.on_states(states).tobytes() == host.on_states(states).tobytes()


def test_optimization_for_speed_saves_instructions_and_changes_no_bit(tmp_path: Path) -> None:
    states = recorded("pong", 5)
    instructions, values = [], []
    for optimize in ("size", "speed"):
        with emulated("cortex-m4", "pong", "tiny", tmp_path / optimize, optimize) as (device, _):
            values.append(device.on_states(states).tobytes())
            device.act(states.frames[0])
            instructions += device.instructions
    assert values[0] == values[1]
    assert instructions[1] < 0.6 * instructions[0]


class OnDevice:
    """A Q-function of one environment whose greedy actions an emulated device chooses."""

    def __init__(self, device: EmulatedPolicy) -> None:
        self.device = device
        device.reset()

    def __call__(self, observations: Observations, /) -> QValues:
        newest = np.ascontiguousarray(observations[0, -1])
        values = np.zeros((1, self.device.actions), np.float32)
        values[0, self.device.act(newest)] = 1.0
        return values


def test_a_device_plays_a_held_out_game_as_the_offline_evaluation_does(tmp_path: Path) -> None:
    repository = Repository(POLICIES)
    manifest, report = repository.policy("pong"), repository.report("pong", "tiny")
    assert manifest.environment is not None
    assert report is not None
    assert report.played is not None
    assert report.trajectories is not None
    (seed,) = HELD_OUT.seeds(1)
    epsilon = report.played.protocol.epsilon
    with emulated("cortex-m4", "pong", "tiny", tmp_path / "export", "speed") as (device, _):
        (episode,) = play_episodes(
            manifest.environment, OnDevice(device), [seed], epsilon=epsilon, environments=1
        )
        assert len(device.instructions) == episode.length
    place = report.played.seeds.index(seed)
    assert recorded_episode(episode) == (
        report.played.returns[place],
        report.played.lengths[place],
        report.trajectories[place],
    )


def recorded_episode(episode: Episode) -> tuple[float, int, str]:
    return episode.return_, episode.length, episode.trajectory


def test_micro_fits_four_kilobytes_of_a_cortex_m0plus(tmp_path: Path) -> None:
    report = export("cartpole", "micro", tmp_path / "export", cpu="cortex-m0plus")
    assert report.flash.measured
    assert report.flash.bytes <= 4_000
    assert report.ram.bytes <= 512


def test_the_smallest_pong_fits_32_kilobytes_of_each(tmp_path: Path) -> None:
    report = export("pong", "tiny", tmp_path / "export", max_flash=32_000, max_ram=32_000)
    assert report.flash.measured
    assert report.flash.bytes <= 32_000
    assert report.ram.bytes <= 32_000
