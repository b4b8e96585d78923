from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slimq.cli.compare import COLUMNS, CONDITION_COLUMNS
from slimq.core.repository import Repository
from slimq.evaluation.conditions import parse_conditions
from slimq.evaluation.protocol import EvaluationSettings
from slimq.evaluation.runner import evaluate_policy


@pytest.fixture
def run(tiny_repository, invoke):
    """Runs the command on the policy `tiny`; gives exit code, stdout and stderr."""

    def run(*arguments):
        return invoke("compare", "tiny", "--policies", str(tiny_repository), *arguments)

    return run


@pytest.fixture
def evaluated(tiny_repository, tmp_path, two_processes):
    """The reports, of a policy that is better than random."""
    path = tiny_repository / "tiny" / "policy.json"
    values = json.loads(path.read_text())
    values["random_policy"]["mean"] = 5.0
    path.write_text(json.dumps(values))
    settings = EvaluationSettings(
        episodes=5, resamples=100, states=20, work=tmp_path / "work", iterations=2
    )
    return evaluate_policy(Repository(tiny_repository), "tiny", settings=settings).reports


def test_the_table_has_a_line_for_each_variant_and_states_the_protocol(run, evaluated):
    code, out, _ = run()
    lines = out.splitlines()
    assert code == 0
    assert all(column in lines[0] for column in COLUMNS)
    assert lines[1].startswith("fp32")
    assert lines[2].startswith("other")
    assert f"{evaluated['other'].mean:.2f}" in lines[2]
    assert "CartPole-v1: 5 held-out episodes, ε 0.01, at most 500 agent steps" in out
    assert "one thread, batch 1" in out


def test_markdown_is_a_table(run, evaluated):
    _, out, _ = run("--markdown")
    lines = out.splitlines()
    assert lines[0].startswith("| variant | bytes |")
    assert lines[1].startswith("| --- | ---: |")
    assert {line.count("|") for line in lines[:4]} == {len(COLUMNS) + 1}


def test_json_includes_values_computed_on_reading(run, evaluated):
    _, out, _ = run("--json")
    values = json.loads(out)
    rows = {row["variant"]: row for row in values["rows"]}
    assert values["baseline"] == "fp32"
    assert rows["fp32"]["difference"]["non_inferior"] is True
    assert rows["other"]["smaller"] > 0
    assert {row["batch"] for row in rows["other"]["latency"]} == {1, 8, 32}
    assert rows["fp32"]["latency"][0]["faster"] == 1.0


def test_plots_are_written_and_named_on_stderr(run, evaluated, tmp_path):
    code, out, err = run("--json", "--plot", str(tmp_path / "plots"))
    assert code == 0
    json.loads(out)
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == [
        "tiny-latency.png",
        "tiny-latency.svg",
        "tiny-return.png",
        "tiny-return.svg",
        "tiny-training.png",
        "tiny-training.svg",
    ]
    assert err.count("wrote ") == 6


def test_an_unevaluated_policy_is_shown_with_the_next_command(run, tiny_repository):
    code, out, _ = run()
    assert code == 0
    assert "other: not evaluated: run slimq evaluate tiny" in out
    assert "–" in out


def test_a_policy_without_variants_is_shown_with_the_next_command(run, tiny_repository):
    shutil.rmtree(tiny_repository / "tiny" / "variants")
    code, _, errors = run()
    assert code == 0
    assert "tiny has no variants yet; run slimq shrink tiny" in errors


def test_an_unreadable_variant_is_named_and_exits_with_1(run, tiny_repository):
    (tiny_repository / "tiny/variants/other/variant.json").write_text("{")
    code, out, err = run("--json")
    assert code == 1
    assert [row["variant"] for row in json.loads(out)["rows"]] == ["fp32"]
    assert err.startswith("slimq: tiny/other: tiny/variants/other/variant.json: Invalid JSON")
    assert err.endswith("slimq: tiny: cannot be read: other\n")


@pytest.mark.parametrize("command", ["compare", "recommend"])
def test_reports_are_read_without_the_play_and_train_extras(command):
    absent = ["ale_py", "gymnasium", "matplotlib", "onnx", "torch"]
    lines = [
        "import sys",
        f"sys.modules.update(dict.fromkeys({absent}))",
        "from slimq.cli.main import main",
        "main()",
    ]
    repository = Path(__file__).parents[2] / "policies"
    arguments = [command, "cartpole", "--policies", str(repository)]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "int8" in done.stdout


def test_two_output_formats_at_once_are_refused(run):
    code, out, err = run("--json", "--markdown")
    assert (code, out) == (2, "")
    assert "either --json or --markdown" in err


def test_without_the_return_of_random_play_no_return_is_compared(run, attach, tiny_repository):
    for variant in ("fp32", "other"):
        attach(variant, [100.0, 120.0])
    path = tiny_repository / "tiny" / "policy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"random_policy": None}))
    code, out, err = run()
    assert (code, err) == (0, "")
    assert "other: the return of random play, the zero of return ratios, is not known" in out
    assert "random policy" not in out


@pytest.fixture
def disturbed(tiny_repository, tmp_path):
    """Reports of real play under the standard conditions and another one."""
    path = tiny_repository / "tiny" / "policy.json"
    values = json.loads(path.read_text())
    values["random_policy"]["mean"] = 5.0
    path.write_text(json.dumps(values))
    repository = Repository(tiny_repository)
    conditions = parse_conditions("standard,quantized=0.5", repository.policy("tiny"))
    settings = EvaluationSettings(
        episodes=5,
        resamples=100,
        states=20,
        work=tmp_path / "work",
        latency="skip",
        conditions=conditions,
        condition_episodes=20,
    )
    return evaluate_policy(repository, "tiny", settings=settings).reports


def test_a_second_table_has_each_variant_by_condition(run, disturbed):
    _, out, _ = run("--conditions", "--markdown")
    first, second, _ = out.split("\n\n", 2)
    assert first.splitlines()[2].split(" | ")[8] == "yes"  # the full policy keeps what it has
    heading, _, *rows = second.splitlines()
    assert heading == f"| {' | '.join(CONDITION_COLUMNS)} |"
    assert len(rows) == 12
    cells = [row.strip("| ").split(" | ") for row in rows]
    assert [row[1] for row in cells[:6]] == [
        "noise=0.01",
        "bias=0.01",
        "held=0.1",
        "sticky=0.25",
        "delayed=1",
        "quantized=0.5",
    ]
    for name, label, mean, *_ in cells:
        (found,) = [c for c in disturbed[name].conditions if c.condition.label == label]
        assert mean == f"{found.mean:.2f}"
    assert cells[5][5] == "no"  # it is not in the standard set
    assert cells[0][4:7] == ["+0.0%", "yes", "yes"]
    assert {row[-1] for row in cells} == {"20"}


def test_json_has_every_condition_with_what_it_decides(run, disturbed):
    _, out, _ = run("--json")
    row = json.loads(out)["rows"][1]["robustness"]
    assert row["missing"] == []
    assert isinstance(row["robust"], bool)
    assert len(row["results"]) == 6
    for result in row["results"]:
        assert result["difference"]["episodes"] == 20
        assert result["decides"] is (result["full_loss"] <= 0.5)
        kept = result["difference"]["low"] >= -0.05
        assert result["non_inferior"] is (kept if result["decides"] else None)


def test_notes_name_the_failing_conditions_with_their_bounds(run, attach):
    returns = [100.0, 120.0] * 10
    lost = [30.0] * 20
    attach("fp32", returns, conditions={"noise=0.01": returns, "sticky=0.25": lost})
    worse = [one - 18 for one in returns]
    attach("other", returns, conditions={"noise=0.01": worse, "sticky=0.25": lost})
    _, out, _ = run()
    assert out.splitlines()[2].split()[9:11] == ["yes", "no"]
    assert out.splitlines()[1].split()[9:11] == ["yes", "–"]
    assert "other: not robust: -20.0% (-20.0% to -20.0%) under noise=0.01\n" in out
    assert "; undecided under sticky=0.25 (89%), where fp32 itself loses more than 50%\n" in out
    assert (
        "other: not played under bias=0.01, held=0.1, delayed=1: run slimq evaluate tiny "
        "--conditions\n"
    ) in out


def test_a_condition_of_a_few_episodes_makes_nothing_robust(run, attach):
    returns = [100.0, 120.0] * 10
    names = ("noise=0.01", "bias=0.01", "held=0.1", "sticky=0.25", "delayed=1")
    few = dict.fromkeys(names, returns) | {"held=0.1": returns[:1]}
    for variant in ("fp32", "other"):
        attach(variant, returns, conditions=few)
    _, out, _ = run()
    assert out.splitlines()[2].split()[9:11] == ["yes", "–"]
    assert (
        "other: fewer than 20 episodes under held=0.1 decide nothing: run slimq evaluate tiny "
        "--conditions\n"
    ) in out
    assert "loses more than" not in out


def test_a_wide_interval_is_said_to_be_undecided(run, attach):
    returns = [100.0, 120.0] * 10
    attach("fp32", returns, conditions={"noise=0.01": returns})
    attach("other", returns, conditions={"noise=0.01": [80.0, 140.0] * 10})
    _, out, _ = run()
    assert "under noise=0.01, which more episodes may decide\n" in out


def test_without_conditions_the_table_says_what_is_not_known(run, attach):
    for variant in ("fp32", "other"):
        attach(variant, [100.0, 120.0])
    _, out, _ = run()
    assert out.splitlines()[2].split()[9:11] == ["yes", "–"]
    assert "nothing is known beyond undisturbed play: run slimq evaluate tiny --conditions" in out
