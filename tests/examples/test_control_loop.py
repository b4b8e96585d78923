from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import control_loop
from control_loop import (
    Record,
    Recorded,
    Tick,
    describe,
    quantiles,
    run_loop,
    summarize,
)
from places import POLICIES, ROOT
from robots import pack, unpack
from running import serve
from slimq.core.frames import newest
from slimq.core.observation import FrameStack, ObservationSpec

SCRIPT = ROOT / "examples" / "control_loop.py"


class Frames:
    """Numbered frames; keeps the actions."""

    def __init__(self) -> None:
        self.numbers, self.actions = itertools.count(), list[int]()
        self.returns = [1.0, 2.0]

    def frame(self) -> tuple[Any, bool]:
        number = next(self.numbers)
        return np.float32([number]), number == 0

    def act(self, action: int) -> None:
        self.actions.append(action)


def answers(slow: Any = (), seconds: float = 0.0) -> Any:
    """Answers to frames, the given ones late."""
    asked: list[bool] = []

    def infer(frame: Any, reset: bool) -> dict[str, Any]:
        asked.append(reset)
        if int(frame[0]) in slow:
            time.sleep(seconds)
        return {"actions": np.array([int(frame[0]) + 5]), "server_timing": {"infer_ms": 2.0}}

    return infer, asked


def test_every_tick_is_answered_and_its_action_taken() -> None:
    source, (infer, asked) = Frames(), answers()
    record = run_loop(infer, source, 20, 0.5, action_start=5)
    assert len(record.ticks) + record.skipped == 10
    assert source.actions == list(range(len(record.ticks)))
    assert asked == [True] + [False] * (len(record.ticks) - 1)
    for tick in record.ticks:
        assert (tick.infer, tick.round_trip > 0, tick.late >= 0) == (0.002, True, True)


def test_a_late_action_is_a_miss_and_the_ticks_that_passed_are_skipped() -> None:
    source, (infer, _) = Frames(), answers(slow=(2, 3), seconds=0.45)
    record = run_loop(infer, source, 5, 2.0)
    missed = [tick.missed for tick in record.ticks]
    assert missed[2:4] == [True, True]
    assert record.skipped >= 4
    assert len(record.ticks) + record.skipped == 10
    for tick in record.ticks[2:4]:
        assert tick.round_trip > 0.44


def test_the_loop_ends_when_its_time_is_over() -> None:
    began = time.perf_counter()
    run_loop(answers()[0], Frames(), 100, 0.3)
    assert 0.28 < time.perf_counter() - began < 2


def test_quantiles_are_of_what_was_measured() -> None:
    times = np.arange(1, 1001) / 1000
    expected = {"p50": 500.0, "p99": 990.0, "p99.9": 999.0, "max": 1000.0}
    assert quantiles(times[::-1]) == expected
    assert quantiles([0.25]) == dict.fromkeys(expected, 250.0)
    assert quantiles([]) == {}


def test_the_summary_has_jitter_lateness_and_misses() -> None:
    ticks = [Tick(0.0, 0.0, 0.004, False, 0.001), Tick(0.021, 0.001, 0.03, True, 0.002)]
    summary = summarize(Record(ticks, skipped=3, returns=[1.0, 2.0]), 50)
    assert (summary["ticks"], summary["missed"], summary["skipped"]) == (2, 1, 3)
    assert summary["period_jitter_ms"]["max"] == pytest.approx(1.0)
    assert summary["late_ms"]["max"] == 1.0
    assert (summary["round_trip_ms"]["p50"], summary["round_trip_ms"]["max"]) == (4.0, 30.0)
    assert (summary["episodes"], summary["mean_return"]) == (2, 1.5)
    text = describe(summary, {"policy": "p", "variant": "v"}, 50)
    assert "2 ticks at 50 Hz, 1 missed their deadline of 20 ms (50.00%), 3 skipped" in text
    assert "mean return of 1.5" in text


@pytest.mark.parametrize(("axis", "shape"), [(0, (84, 84)), (2, (84, 84, 3)), (1, (84, 21))])
def test_the_newest_frame_is_the_one_that_a_stream_pushes(axis: int, shape: Any) -> None:
    whole = {0: (4, 84, 84), 2: (84, 84, 12), 1: (84, 84)}[axis]
    spec = ObservationSpec(dtype="uint8", shape=whole, stack=FrameStack(axis=axis, count=4))
    frame = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    observation = spec.push(spec.padding(), frame[np.newaxis])[0]
    np.testing.assert_array_equal(newest(observation[np.newaxis], spec)[0], frame)
    flat = ObservationSpec(dtype="float32", shape=(4,))
    assert newest(np.zeros((1, 4)), flat).shape == (1, 4)


def test_its_messages_are_those_of_other_clients() -> None:
    message = {"observation": np.float32([[1, 2]]), "reset": True}
    assert control_loop.pack(message) == pack(message)
    found, expected = control_loop.unpack(pack(message)), unpack(pack(message))
    np.testing.assert_array_equal(found["observation"], expected["observation"])
    assert found["reset"] is True


def test_recorded_states_are_sent_in_order_and_again() -> None:
    source = Recorded(POLICIES, "cartpole")
    first, reset = source.frame()
    source.act(0)
    second, again = source.frame()
    assert (first.shape, reset, again) == ((4,), True, False)
    assert not np.array_equal(first, second)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve(POLICIES, 300) as (_, found):
        yield found


def run(*words: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("options", [(), ("--recorded", POLICIES, "--variant", "int8")])
def test_a_loop_runs_against_a_real_service(url: str, options: Any) -> None:
    done = run("cartpole", "--service", url, "--seconds", 1, "--json", *options)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["ticks"] + summary["skipped"] == 50
    assert summary["round_trip_ms"]["p50"] > summary["model_ms"]["p50"] > 0


def test_stacked_frames_are_played_one_by_one(url: str) -> None:
    done = run("pong", "--service", url, "--seconds", 0.5)
    assert done.returncode == 0, done.stderr
    assert "ticks at 50 Hz" in done.stdout
    assert "round trip" in done.stdout


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("none",), "unknown policy 'none'; available: acrobot"),
        (("cartpole", "--variant", "none"), "unknown variant 'none'; available: "),
        (("cartpole", "--recorded", "/nowhere"), "/nowhere"),
        (("cartpole", "--service", "ws://127.0.0.1:1"), "refused"),
    ],
)
def test_what_cannot_begin_says_why_in_one_line(url: str, words: Any, problem: str) -> None:
    done = run(*words, *(() if "--service" in words else ("--service", url)))
    assert done.returncode == 1
    assert done.stderr.startswith("control_loop: ")
    assert problem in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "fast"])
def test_rates_and_durations_are_above_zero(value: str) -> None:
    for option in ("--hz", "--seconds"):
        with pytest.raises(SystemExit) as error:
            control_loop.read_arguments(["cartpole", option, value])
        assert error.value.code == 2


def test_the_help_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        control_loop.read_arguments(["--help"])
    text = capsys.readouterr().out
    assert "--recorded" in text
    assert "The deadline of an action is the next" in text


def test_a_policy_without_an_environment_needs_recorded_states(tmp_path: Path) -> None:
    with pytest.raises(control_loop.LoopError, match="has no environment; use --recorded"):
        control_loop.Played({"policy": "p", "environment": None}, 1)
