from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slimq.cli.play import app
from slimq.core.client import SlimqClient
from slimq.core.seeds import HELD_OUT


def test_episodes_over_http_equal_those_played_offline(
    served: str, slimq: Any, tmp_path: Path, tiny_repository: Path
) -> None:
    pytest.importorskip("gymnasium")
    from slimq.core.onnx_policy import OnnxPolicy
    from slimq.core.repository import Repository
    from slimq.environments.rollout import play_episodes

    trace = tmp_path / "trace.jsonl"
    arguments = ["--episodes", 3, "--seed-offset", 5, "--variant", "other", "--trace", trace]
    done = slimq("play", "tiny", "--url", served, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)

    repository = Repository(tiny_repository)
    manifest = repository.policy("tiny")
    _, content = repository.read_model("tiny", "other")
    policy = OnnxPolicy(content, manifest.observation, len(manifest.actions))
    steps: list[Any] = []
    seeds = HELD_OUT.seeds(3, 5)
    offline = list(play_episodes(manifest.environment, policy, seeds, on_step=steps.append))
    offline.sort(key=lambda episode: episode.seed)
    assert [e["seed"] for e in document["episodes"]] == seeds
    assert [e["trajectory"] for e in document["episodes"]] == [e.trajectory for e in offline]
    assert [e["return"] for e in document["episodes"]] == [e.return_ for e in offline]
    assert document["mean"] == np.mean([e.return_ for e in offline])
    with SlimqClient(served) as client:
        assert document["sha256"] == [client.variant("tiny", "other").model.sha256]

    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    expected = {
        (int(seed), int(step)): (int(action), q_values.tolist())
        for batch in steps
        for seed, step, action, q_values in zip(
            batch.seeds, batch.steps, batch.actions, batch.q_values, strict=True
        )
    }
    found = {(line["seed"], line["step"]): (line["action"], line["q_values"]) for line in lines}
    assert len(lines) == sum(e.length for e in offline)
    assert found.keys() == expected.keys()
    for key, (action, q_values) in found.items():
        assert action == expected[key][0]
        np.testing.assert_allclose(q_values, expected[key][1], atol=1e-5)


def test_text_gives_each_return_and_progress_goes_to_stderr(served: str, slimq: Any) -> None:
    done = slimq("play", "tiny", "--url", served, "--episodes", 2)
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()
    assert len(rows) == 3
    assert rows[-1].startswith("mean return of tiny fp32 over 2 episodes: ")
    assert "episode" in done.stderr
    assert "2/2" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pong",), "available: tiny"),
        (("tiny", "--variant", "int9"), "no variant 'int9'; available: fp32, other"),
        (("tiny", "--seed-offset", "999999", "--episodes", "2"), "held-out seeds"),
        (("tiny", "--trace", "/nowhere/at/all"), "a writable file"),
    ],
)
def test_wrong_usage_says_what_is_expected(
    served: str, invoke: Any, arguments: tuple[str, ...], message: str
) -> None:
    code, _, errors = invoke("play", *arguments, "--url", served)
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors


def test_an_unreachable_service_is_named(slimq: Any) -> None:
    done = slimq("play", "tiny", "--url", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "http://127.0.0.1:9: cannot be reached" in done.stderr


def test_the_bar_counts_steps_while_an_episode_is_played(
    served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("gymnasium")
    monkeypatch.setattr("slimq.cli.play.DRAW_SECONDS", 0.0)
    trace = tmp_path / "trace.jsonl"
    arguments = ["tiny", "--url", served, "--episodes", "1", "--trace", str(trace)]
    with pytest.raises(SystemExit) as ended:
        app(arguments)
    assert ended.value.code == 0
    shown = [int(found) for found in re.findall(r"steps=(\d+)", capsys.readouterr().err)]
    count = len(trace.read_text().splitlines())
    assert set(shown) == set(range(1, count + 1))


@pytest.mark.parametrize("code", ["game.py:make", "minigrid:MiniGrid-Empty-5x5-v0"])
def test_a_service_does_not_choose_what_code_runs_here(
    served_with: Any, invoke: Any, tiny_repository: Path, code: str
) -> None:
    path = tiny_repository / "tiny" / "policy.json"
    document = json.loads(path.read_text())
    document["environment"]["id"] = code
    path.write_text(json.dumps(document))
    status, _, errors = invoke("play", "tiny", "--url", served_with())
    assert status == 2
    assert errors.splitlines()[-1] == (
        "slimq: --trust-environment: expected the flag, for an environment that runs code on "
        f"this machine, received none for {code}"
    )


def test_a_trusted_environment_is_made(
    served_with: Any, slimq: Any, tiny_repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "game.py").write_text(
        "import gymnasium\ndef make():\n    return gymnasium.make('CartPole-v1')\n"
    )
    path = tiny_repository / "tiny" / "policy.json"
    document = json.loads(path.read_text())
    document["environment"]["id"] = "game.py:make"
    path.write_text(json.dumps(document))
    done = slimq("play", "tiny", "--url", served_with(), "--trust-environment", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "mean return of tiny fp32 over 2 episodes" in done.stdout
