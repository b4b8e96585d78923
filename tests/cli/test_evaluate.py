from __future__ import annotations

import io
import json
import sys

import pytest

from slimq.cli.evaluate import ProgressBar
from slimq.core.repository import Repository
from slimq.environments.rollout import Episode


@pytest.fixture
def run(tiny_repository, tmp_path, invoke):
    """Runs the command on the policy `tiny`; gives exit code, stdout and stderr."""

    def run(*arguments, policy="tiny"):
        command = ["evaluate", policy, "--policies", str(tiny_repository)]
        return invoke(*command, "--work", str(tmp_path / "work"), "--episodes", "5", *arguments)

    return run


def test_reports_are_published_and_printed(run, tiny_repository):
    code, out, err = run("--no-latency")
    assert code == 0
    assert out.startswith("fp32: mean ")
    assert "other: mean " in out
    assert "tiny/other: 100%" in err
    assert "steps/s" in err
    report = Repository(tiny_repository).report("tiny", "other")
    assert f"mean {report.mean:.2f}" in out
    assert f"{report.distinct_trajectories} of 5 episodes distinct" in out
    assert report.latency is None


def test_json_gives_the_reports_and_nothing_else_on_stdout(run):
    code, out, _ = run("--no-latency", "--variants", "other", "--json")
    values = json.loads(out)
    assert code == 0
    assert list(values["reports"]) == ["other"]
    assert len(values["reports"]["other"]["returns"]) == 5
    assert values["cached"] == []
    assert values["failed"] == {}
    _, out, _ = run("--no-latency", "--variants", "other", "--json")
    assert json.loads(out)["cached"] == ["other"]


def test_a_report_of_more_episodes_is_kept_and_the_command_says_so(run, tiny_repository):
    run("--no-latency")
    code, out, _ = run("--no-latency", "--variants", "other", "--episodes", "3")
    assert code == 0
    assert "of 3 episodes distinct" in out
    assert "(not published: use --force to replace the report of 5 episodes)" in out
    assert len(Repository(tiny_repository).report("tiny", "other").returns) == 5
    _, out, _ = run("--no-latency", "--variants", "other", "--episodes", "3", "--json")
    assert json.loads(out)["kept"] == {"other": 5}


def test_latency_can_be_measured_later(run, tiny_repository):
    run("--no-latency")
    code, _, _ = run("--only-latency", "--variants", "other")
    assert code == 0
    repository = Repository(tiny_repository)
    runs = {repository.report("tiny", name).latency.run_id for name in ("fp32", "other")}
    assert len(runs) == 1


def test_an_invalid_variant_fails_the_command_but_not_the_others(run, tiny_repository):
    entry = Repository(tiny_repository).variant("tiny", "other").model
    (tiny_repository / "tiny" / "variants" / "other" / entry.path).write_bytes(b"broken")
    code, out, err = run("--no-latency", "--json")
    assert code == 1
    assert list(json.loads(out)["reports"]) == ["fp32"]
    assert json.loads(out)["failed"]["other"]["code"] == "repository"
    assert "slimq: tiny/other: " in err
    assert "could not evaluate other; all others succeeded" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "int8"], "unknown variant 'int8'; available: fp32, other"),
        (["--episodes", "0"], "episodes: expected at least 1, received 0"),
        (
            ["--seeds", "selection", "--only-latency"],
            "seeds: expected held-out, as latency is only published",
        ),
        (["--no-latency", "--only-latency"], "expected either --no-latency or --only-latency"),
        (["--conditions="], "conditions: expected standard, noise, brightness, "),
        (["--conditions", "nois=1"], "received 'nois', did you mean 'noise'?"),
        (["--conditions", "noise=nan"], "conditions.noise: expected a number from 0 to 255"),
        (["--conditions", "standard,noise"], "expected each condition once, received noise=0.01"),
        (["--conditions", "no.py:fog"], "conditions: expected a file, received no.py"),
        (["--conditions", "--condition-episodes", "0"], "condition_episodes: expected from 1 to"),
        (["--condition-episodes", "3"], "--condition-episodes: expected --conditions in addition"),
        (["--conditions", "--only-latency"], "conditions: expected none where only latency is"),
    ],
)
def test_wrong_usage_exits_with_2_and_one_line(run, arguments, message):
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--conditions"], ["--conditions", "standard"]])
def test_the_standard_conditions_are_printed_below_each_variant(run, tiny_repository, arguments):
    code, out, err = run(*arguments, "--condition-episodes", "3", "--no-latency")
    assert code == 0
    assert "tiny/other noise=0.01: 100%" in err
    repository = Repository(tiny_repository)
    expected = []
    for name in ("fp32", "other"):
        report = repository.report("tiny", name)
        expected.append(f"{name}: mean {report.mean:.2f}")
        for found in report.conditions:
            low, high = found.interval.low, found.interval.high
            figures = f"mean {found.mean:.2f} ({low:.2f} to {high:.2f}), 3 episodes"
            expected.append(f"  {found.condition.label}: {figures}")
    lines = out.splitlines()
    assert len(lines) == len(expected) == 12
    assert all(line.startswith(start) for line, start in zip(lines, expected, strict=True))


def test_conditions_may_stand_last_and_beside_others_of_any_strength(run):
    code, out, _ = run("--no-latency", "--variants", "other", "--json", "--conditions")
    assert code == 0
    found = json.loads(out)["reports"]["other"]["conditions"]
    names = [condition["condition"]["name"] for condition in found]
    assert names == ["noise", "bias", "held", "sticky", "delayed"]
    assert {len(condition["returns"]) for condition in found} == {5}
    arguments = ["--no-latency", "--variants", "other", "--conditions", "noise=0.5", "--json"]
    _, out, _ = run(*arguments)
    found = json.loads(out)["reports"]["other"]["conditions"]
    assert {"name": "noise", "strength": 0.5} in [one["condition"] for one in found]
    _, out, _ = run(*arguments)
    assert json.loads(out)["cached"] == ["other"]


def test_an_unknown_policy_lists_the_available_ones(run):
    code, _, err = run(policy="tetris")
    assert code == 2
    assert "tiny" in err


def test_the_bar_counts_earlier_episodes_and_shows_the_mean(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    bar = ProgressBar()
    bar.begin("tiny/fp32", 3, [Episode(1, 10.0, 10, "a", terminated=True)])
    bar.steps(20)
    bar.episode(Episode(2, 20.0, 20, "b", terminated=True))
    bar.end()
    last = stream.getvalue().strip().splitlines()[-1].split("\r")[-1]
    assert "tiny/fp32" in last
    assert "2/3" in last
    assert "mean 15.00" in last
