from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from policy_files import dense, forward, q_net, save, sb3_zip, write_states
from slimq.core.calibration import CalibrationSet
from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import InvalidInputError
from slimq.core.manifest import FileEntry
from slimq.core.onnx_policy import OnnxPolicy
from slimq.importing import importer, observations
from slimq.importing.checking import relative_error
from slimq.importing.importer import Prepared, Request, prepare, summarize
from slimq.importing.source import Fitted, Hints, Source

CARTPOLE = EnvironmentSpec(id="CartPole-v1", max_episode_steps=100)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "RANDOM_EPISODES", 3)


def request_of(path: Path, **more: Any) -> Request:
    return Request(path, "mine", more.pop("hints", Hints()), calibration_states=40, **more)


def test_with_an_environment_the_policy_plays_for_its_states(tmp_path: Path, quick: None) -> None:
    layers = dense(4, 8, 2)
    path = sb3_zip(tmp_path / "x.zip", q_net(layers))
    prepared = prepare(request_of(path, environment=CARTPOLE))
    manifest = prepared.manifest
    record = manifest.imported
    assert record is not None
    assert (record.format, record.algorithm, record.file) == ("stable-baselines3", "DQN", "x.zip")
    assert record.bytes == path.stat().st_size
    assert record.max_error < 1e-5
    assert record.states == 40 + importer.DRAWN
    assert manifest.training is None
    assert manifest.random_policy is not None
    assert manifest.environment == CARTPOLE
    assert manifest.calibration is not None
    calibration = CalibrationSet.from_bytes(prepared.files[manifest.calibration.path])
    states = calibration.observations(manifest.observation)
    assert len(states) == 40
    found = OnnxPolicy(prepared.model, manifest.observation, 2)(states)
    assert relative_error(forward(layers, states), found) < 1e-5
    assert relative_error(forward(layers, states), calibration.q_values) < 1e-5
    assert prepared.variant.parameters == 4 * 8 + 8 + 8 * 2 + 2
    assert prepared.variant.macs == 4 * 8 + 8 * 2
    assert summarize(prepared)["environment"] == "CartPole-v1"


def test_with_states_alone_nothing_is_proven_in_play(tmp_path: Path) -> None:
    path = sb3_zip(tmp_path / "x.zip", q_net(dense(4, 8, 2)))
    states = write_states(tmp_path / "s.npz", observations=np.ones((7, 4)))
    manifest = prepare(request_of(path, states=states)).manifest
    assert (manifest.environment, manifest.random_policy) == (None, None)
    assert manifest.actions == ["0", "1"]
    assert manifest.imported is not None
    assert manifest.imported.states == 7


def recorded(prepared: Prepared, entry: FileEntry | None) -> CalibrationSet:
    assert entry is not None
    return CalibrationSet.from_bytes(prepared.files[entry.path])


@pytest.mark.parametrize("count", [10, 11, 34])
def test_every_fifth_recorded_state_is_kept_from_compression(tmp_path: Path, count: int) -> None:
    layers = dense(4, 8, 2)
    path = sb3_zip(tmp_path / "x.zip", q_net(layers))
    drawn = np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)
    states = write_states(tmp_path / "s.npz", observations=drawn)
    prepared = prepare(request_of(path, states=states))
    manifest = prepared.manifest
    calibration = recorded(prepared, manifest.calibration)
    held_out = recorded(prepared, manifest.held_out)
    kept = held_out.observations(manifest.observation)
    np.testing.assert_array_equal(kept, drawn[4::5])
    rest = np.delete(drawn, np.s_[4::5], axis=0)
    np.testing.assert_array_equal(calibration.observations(manifest.observation), rest)
    assert relative_error(forward(layers, kept), held_out.q_values) < 1e-5
    assert manifest.imported is not None
    assert manifest.imported.states == count
    assert manifest.imported.notes == ()
    summary = summarize(prepared)
    assert summary["calibration_states"] == len(calibration) == count - count // 5
    assert summary["held_out_states"] == len(held_out) == count // 5
    assert prepare(request_of(path, states=states)).files == prepared.files


def test_fewer_than_ten_states_are_not_split_and_a_note_says_so(tmp_path: Path) -> None:
    path = sb3_zip(tmp_path / "x.zip", q_net(dense(4, 8, 2)))
    states = write_states(tmp_path / "s.npz", observations=np.ones((9, 4)))
    prepared = prepare(request_of(path, states=states))
    assert prepared.manifest.held_out is None
    assert len(recorded(prepared, prepared.manifest.calibration)) == 9
    summary = summarize(prepared)
    assert (summary["calibration_states"], summary["held_out_states"]) == (9, 0)
    assert "9 of the 10 states needed" in str(summary["notes"])


def test_with_an_environment_the_states_of_a_file_are_for_the_check_alone(
    tmp_path: Path, quick: None
) -> None:
    path = sb3_zip(tmp_path / "x.zip", q_net(dense(4, 8, 2)))
    states = write_states(tmp_path / "s.npz", observations=np.ones((20, 4)))
    prepared = prepare(request_of(path, environment=CARTPOLE, states=states))
    assert prepared.manifest.held_out is None
    assert prepared.manifest.imported is not None
    assert prepared.manifest.imported.states == 20 + 40
    assert prepared.manifest.imported.notes == ()
    assert summarize(prepared)["held_out_states"] is None


def test_without_either_the_line_says_what_is_needed(tmp_path: Path) -> None:
    path = sb3_zip(tmp_path / "x.zip", q_net(dense(4, 2)))
    wanted = "--env ID, to play in, or --observations STATES.npz.*the file names no environment"
    with pytest.raises(InvalidInputError, match=wanted):
        prepare(request_of(path))


@pytest.mark.slow
def test_the_environment_of_the_file_is_used(tmp_path: Path, quick: None) -> None:
    weights = {"atoms": torch.linspace(-1, 1, 3)}
    weights |= {f"network.{key}": value for key, value in dense(4, 8, 6).items()}
    model = {"model_weights": weights, "args": {"env_id": "CartPole-v1"}}
    prepared = prepare(request_of(save(tmp_path / "x.cleanrl_model", model)))
    assert prepared.manifest.environment is not None
    assert prepared.manifest.environment.id == "CartPole-v1"


@pytest.mark.parametrize(
    ("widths", "problem"),
    [
        ((4, 8, 3), "expected 3 actions, as the policy has, received 2 of CartPole-v1"),
        ((5, 8, 2), r"expected weights \(8, 4\) for these observations, received \(8, 5\)"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(
    tmp_path: Path, widths: tuple[int, ...], problem: str
) -> None:
    weights = {f"network.{key}": value for key, value in dense(*widths).items()}
    path = save(tmp_path / "x.cleanrl_model", weights)
    with pytest.raises(InvalidInputError, match=problem):
        prepare(request_of(path, environment=CARTPOLE))


def test_q_values_that_differ_from_the_source_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = importer.read_source

    def wrong(path: Path, hints: Hints) -> Source:
        source = read(path, hints)

        def fit(observation: Any) -> Fitted:
            fitted = source.fit(observation)
            assert fitted.network is not None
            with torch.no_grad():
                fitted.network.head.bias.add_(0.01)  # type: ignore[operator,union-attr]
            return fitted

        return Source(source.format, source.algorithm, source.actions, fit, source.layout)

    monkeypatch.setattr(importer, "read_source", wrong)
    path = sb3_zip(tmp_path / "x.zip", q_net(dense(4, 8, 2)))
    states = write_states(tmp_path / "s.npz", observations=np.ones((7, 4)))
    with pytest.raises(InvalidInputError, match=r"Q-values within 0\.0001, received a rel"):
        prepare(request_of(path, states=states))


def test_q_values_that_overflow_are_refused(tmp_path: Path) -> None:
    layers = {key: value * 1e30 for key, value in dense(4, 8, 2).items()}
    path = sb3_zip(tmp_path / "x.zip", q_net(layers))
    states = write_states(tmp_path / "s.npz", observations=np.ones((7, 4)))
    with pytest.raises(InvalidInputError, match="expected finite Q-values"):
        prepare(request_of(path, states=states))


def test_many_states_are_thinned_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observations, "MAX_STATES", 10)
    path = sb3_zip(tmp_path / "x.zip", q_net(dense(4, 2)))
    drawn = np.random.default_rng(0).normal(size=(100, 4))
    states = write_states(tmp_path / "s.npz", observations=drawn)
    manifest = prepare(request_of(path, states=states)).manifest
    assert manifest.imported is not None
    assert manifest.imported.states == 10


def test_the_number_of_the_first_action_is_that_of_the_file(tmp_path: Path) -> None:
    space = gymnasium.spaces.Discrete(2, start=5)
    path = sb3_zip(tmp_path / "x.zip", q_net(dense(4, 8, 2)), actions=space)
    states = write_states(tmp_path / "s.npz", observations=np.ones((7, 4)))
    manifest = prepare(request_of(path, states=states)).manifest
    assert (manifest.action_start, manifest.actions) == (5, ["0", "1"])
    with pytest.raises(InvalidInputError, match="actions from 5 on, as the policy has, received"):
        prepare(request_of(path, environment=CARTPOLE))
