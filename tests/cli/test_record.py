from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from full_disk import contents, fill, small_disk
from running import COMMAND
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.repository import Repository
from slimq.core.seeds import HELD_OUT
from slimq.environments.rollout import play_episodes

SHIPPED = Path(__file__).parents[2] / "policies"


def frames(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def returns_of(policy: str, variants: list[str], seed: int) -> dict[str, float]:
    """What the variants reach in the episode of a seed, played as an evaluation does."""
    repository = Repository(SHIPPED)
    manifest = repository.policy(policy)
    assert manifest.environment is not None
    found = {}
    for variant in variants:
        content = repository.read_model(policy, variant)[1]
        played = OnnxPolicy(content, manifest.observation, len(manifest.actions))
        (episode,) = play_episodes(manifest.environment, played, [seed])
        found[variant] = episode.return_
    return found


@pytest.fixture
def record(invoke: Any, tmp_path: Path) -> Any:
    """`record("cartpole", "video.mp4", …)`: exit code, stdout, stderr, the file."""

    def call(policy: str, name: str, *options: str, policies: Path = SHIPPED) -> Any:
        output = tmp_path / name
        arguments = ("--output", str(output), "--policies", str(policies), *options)
        return *invoke("record", policy, *arguments), output

    return call


def test_a_video_has_a_picture_for_each_step_and_holds_the_last(record: Any) -> None:
    code, out, errors, path = record(
        *("cartpole", "short.mp4", "--variants", "fp32,int8"),
        *("--max-steps", "20", "--fps", "10", "--width", "300", "--json"),
    )
    assert code == 0, errors
    found = json.loads(out)
    shown = frames(path)
    assert found["pictures"] == len(shown) == 20 + 10  # the end is held for a second
    assert shown[0].size == (found["width"], found["height"])
    assert found["width"] == 300
    assert found["bytes"] == path.stat().st_size
    assert found["returns"] == {"fp32": 20.0, "int8": 20.0}
    assert found["terminated"] == {"fp32": False, "int8": False}
    assert 0 < found["differing_steps"] < found["steps"] == 20


def test_the_episodes_are_those_of_an_evaluation(record: Any) -> None:
    seed = HELD_OUT.seeds(1, 7)[0]
    options = ("--variants", "fp32,int8", "--seed", str(seed), "--json")
    _, out, errors, _ = record("acrobot-cleanrl", "whole.mp4", *options)
    found = json.loads(out)
    assert found["returns"] == returns_of("acrobot-cleanrl", ["fp32", "int8"], seed), errors
    assert found["seeds"] == "held-out"


def test_a_gif_repeats_and_has_the_same_size(record: Any) -> None:
    options = ("--max-steps", "5", "--fps", "10", "--width", "200")
    code, out, errors, path = record("cartpole", "short.GIF", *options)
    assert code == 0, errors
    with Image.open(path) as image:
        assert (image.format, image.info["loop"], image.info["duration"]) == ("GIF", 0, 100)
        assert f"{image.width} × {image.height} pixels" in out
        assert image.n_frames >= 6


def test_the_same_command_gives_the_same_bytes(record: Any) -> None:
    options = ("--max-steps", "10", "--width", "200")
    first = record("cartpole", "a.mp4", *options)[-1].read_bytes()
    assert record("cartpole", "b.mp4", *options)[-1].read_bytes() == first


def test_a_condition_disturbs_play_and_is_named(record: Any) -> None:
    options = ("--variants", "fp32", "--max-steps", "40", "--width", "200", "--json")
    plain = json.loads(record("cartpole", "a.mp4", *options)[1])
    disturbed = json.loads(record("cartpole", "b.mp4", *options, "--condition", "sticky=0.9")[1])
    assert (plain["condition"], disturbed["condition"]) == (None, "sticky=0.9")
    assert plain["returns"] == {"fp32": 40.0}
    assert disturbed["returns"]["fp32"] < 40.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--variants", "int9"), "unknown variant 'int9', did you mean 'int8'?; available: "),
        (("--seed", "12"), "--seed: expected a seed within 3000000 to 3999999 (held-out), "),
        (("--max-steps", "0"), "--max-steps: expected at least 1, received 0"),
        (("--fps", "500"), "--fps: expected from 0.5 to 120 for .mp4, received 500"),
        (("--width", "50"), "--width: expected from "),
        (("--condition", "standard"), "--condition: expected one disturbance, received standard"),
        (("--condition", "fog=1"), "received 'fog'"),
    ],
)
def test_wrong_options_are_refused_in_one_line(
    record: Any, options: tuple[str, ...], message: str
) -> None:
    code, out, errors, path = record("cartpole", "video.mp4", *options)
    assert (code, out) == (2, "")
    line = errors.splitlines()[-1]
    assert message in line
    assert "Traceback" not in errors
    assert list(path.parent.iterdir()) == []


def test_an_unknown_suffix_is_refused(record: Any) -> None:
    code, _, errors, path = record("cartpole", "video.avi")
    expected = "--output: expected a name that ends in .mp4 or .gif, received 'video.avi'"
    assert (code, errors) == (2, f"slimq: {expected}\n")
    assert not path.exists()


def test_a_policy_without_an_environment_is_refused(record: Any, tiny_repository: Path) -> None:
    path = tiny_repository / "tiny" / "policy.json"
    values = json.loads(path.read_text()) | {"environment": None, "random_policy": None}
    path.write_text(json.dumps(values))
    code, _, errors, _ = record("tiny", "video.mp4", policies=tiny_repository)
    assert code == 2
    assert "one with an environment, to play in, for slimq record" in errors
    assert "not proven in play" in errors


def test_an_environment_that_does_not_render_is_refused(
    record: Any, tiny_repository: Path, tmp_path: Path
) -> None:
    code = tmp_path / "dark.py"
    code.write_text(
        "import gymnasium\n\n"
        "class Dark(gymnasium.Wrapper):\n"
        "    metadata = {'render_modes': ['human']}\n\n"
        "def make():\n    return Dark(gymnasium.make('CartPole-v1'))\n"
    )
    path = tiny_repository / "tiny" / "policy.json"
    values = json.loads(path.read_text())
    values["environment"]["id"] = f"{code}:make"
    path.write_text(json.dumps(values))
    code, _, errors, _ = record("tiny", "video.mp4", policies=tiny_repository)
    assert code == 2
    assert "policy: expected an environment that renders rgb_array, received " in errors
    assert errors.rstrip().endswith("which renders human")


@pytest.mark.parametrize(
    ("absent", "policy", "extra"),
    [
        ("av", "cartpole", "video"),
        ("pygame", "cartpole", "games"),
        ("minatar", "minatar-freeway", "games"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(
    absent: str, policy: str, extra: str, tmp_path: Path
) -> None:
    lines = [
        "import importlib.util, sys",
        f"sys.modules[{absent!r}] = None",
        "found = importlib.util.find_spec",
        f"importlib.util.find_spec = lambda n, *a: None if n == {absent!r} else found(n, *a)",
        "from slimq.cli.main import main",
        "main()",
    ]
    arguments = [policy, "--policies", str(SHIPPED), "--output", str(tmp_path / "a.mp4")]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines), "record", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert f"{absent} is not installed: pip install 'slimq[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_written_to_is_named_before_play(
    invoke: Any, tmp_path: Path
) -> None:
    output = tmp_path / "nowhere" / "video.mp4"
    code, out, errors = invoke(
        "record", "cartpole", "--policies", str(SHIPPED), "--output", str(output)
    )
    assert (code, out) == (2, "")
    assert errors.splitlines()[-1] == f"slimq: {output}: No such file or directory"
    assert "step" not in errors


def test_a_full_disk_leaves_the_old_video(slimq: Any, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        output = disk / "video.mp4"
        output.write_bytes(b"old")
        fill(disk)
        arguments = ("--policies", SHIPPED, "--output", output, "--max-steps", 20)
        done = slimq("record", "cartpole", *arguments)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].endswith(f"{output}: No space left on device")
        assert contents(disk) == {"video.mp4": b"old"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_recording_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    output = tmp_path / "out" / "video.mp4"
    output.parent.mkdir()
    arguments = ["record", "lunarlander", "--policies", str(SHIPPED), "--output", str(output)]
    process = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, env=os.environ)
    assert process.stderr is not None
    seen = io.BytesIO()
    deadline = time.monotonic() + 60
    while b"pictures" not in seen.getvalue() and time.monotonic() < deadline:
        seen.write(os.read(process.stderr.fileno(), 4096))
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGKILL)
    assert list(output.parent.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "policy",
    [
        "acrobot",
        "cliffwalking",
        "frozenlake",
        "lunarlander",
        "minatar-breakout",
        "minatar-space-invaders",
        "minigrid-empty",
        "mountaincar",
    ],
)
def test_every_shipped_kind_can_be_recorded(record: Any, policy: str) -> None:
    names = ["fp32", *[n for n in Repository(SHIPPED).variants(policy) if n != "fp32"][:1]]
    code, out, errors, path = record(policy, "a.mp4", "--variants", ",".join(names), "--json")
    assert code == 0, errors
    found = json.loads(out)
    assert found["returns"] == returns_of(policy, names, HELD_OUT.start)
    assert len(frames(path)) == found["pictures"] > found["steps"]


@pytest.mark.slow
def test_pong_is_recorded_in_colour_as_it_was_evaluated(record: Any) -> None:
    options = ("--variants", "fp32,tiny", "--json")
    code, out, errors, path = record("pong", "a.mp4", *options)
    assert code == 0, errors
    found = json.loads(out)
    assert found["returns"] == returns_of("pong", ["fp32", "tiny"], HELD_OUT.start)
    colours = frames(path)[0].getcolors(1 << 20)
    assert any(r > 120 > g > b for _, (r, g, b) in colours)  # the brown of its court


def test_shipped_reports_have_the_returns_that_are_shown(record: Any) -> None:
    repository = Repository(SHIPPED)
    report = repository.report("cartpole-sb3", "fp32")
    assert report is not None
    _, out, _, _ = record("cartpole-sb3", "a.mp4", "--variants", "fp32", "--width", "200", "--json")
    assert json.loads(out)["returns"]["fp32"] == report.returns[report.seeds.index(HELD_OUT.start)]


def test_nothing_but_the_video_is_written(record: Any, tmp_path: Path) -> None:
    shutil.copytree(SHIPPED / "cartpole", tmp_path / "own" / "cartpole")
    before = contents(tmp_path / "own")
    *_, path = record(
        "cartpole", "a.mp4", "--max-steps", "3", "--width", "200", policies=tmp_path / "own"
    )
    assert path.exists()
    assert contents(tmp_path / "own") == before
