"""`slimq search` as a user runs it, on a copy of the shipped CartPole policy."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from processes import children_of, has_ended
from running import COMMAND
from slimq.cli.main import app
from slimq.core.errors import CheckFailedError, InvalidInputError
from waiting import until

pytest.importorskip("torch")
pytest.importorskip("optuna")

SHIPPED = Path(__file__).parents[2] / "policies" / "cartpole"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(SHIPPED, tmp_path / "policies" / "cartpole")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["search", "cartpole", "--effort", "0.005", *arguments])


def test_the_pareto_front_is_printed_and_a_winner_published_with_its_recipe(folder: Path) -> None:
    """The study holds a network that is hardly pruned, so that it plays at once; and a student."""
    from slimq_compression.search.run import search
    from slimq_compression.search.study import SearchSettings, open_study

    settings = SearchSettings(folder / "policies", "cartpole", effort=0.005, trials=1, minutes=1e-9)
    search(settings)
    chosen = {"structure": "pruned", "keep.1": 0.99, "keep.2": 0.99, "weights": "int8"}
    open_study(settings).enqueue_trial(chosen)
    result = run("--trials", "2", "--publish-effort", "0.02")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    front = re.fullmatch(
        r"cartpole: ([12]) trials on the Pareto front of runs/search/cartpole/margin-0\.02_seed-0",
        lines[0],
    )
    assert front is not None, lines[0]
    assert lines[1].split()[:4] == ["trial", "bytes", "µs", "ratio"]
    after = 2 + int(front[1])
    assert any(line.endswith("pruned keep 0.99 0.99; int8") for line in lines[2:after])
    (recipe,) = (folder / "recipes/cartpole").glob("found-*.toml")
    assert lines[after] == f"trial 1, seed 0: recipes/cartpole/{recipe.name}"
    assert lines[after + 1].startswith(f"cartpole/{recipe.stem}: published, ")
    assert f"slimq evaluate cartpole --variants {recipe.stem}" in result.stderr
    assert (folder / "policies/cartpole/variants" / recipe.stem / "variant.json").exists()


def test_json_says_where_the_study_is_and_what_it_found(folder: Path) -> None:
    result = run("--trials", "1", "--max-bytes", "50B", "--publish", "0", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "policy": "cartpole",
        "study": "runs/search/cartpole/bytes-50_margin-0.02_seed-0",
        "front": [],
        "winners": [],
    }


def test_too_few_winners_are_a_failed_check(folder: Path) -> None:
    result = run("--trials", "1", "--max-bytes", "50", "--study", "tiny")
    assert isinstance(result.exception, CheckFailedError)
    assert "0 of 1 variants published" in str(result.exception)
    assert (folder / "runs/search/cartpole/tiny/journal.jsonl").exists()
    assert not (folder / "recipes").exists()


def test_limits_are_parsed_with_their_units(folder: Path) -> None:
    for option in ("--max-bytes", "--max-latency"):
        result = run(option, "much")
        assert isinstance(result.exception, InvalidInputError)
        assert str(result.exception).startswith(f"{option}: expected a positive ")
    assert not (folder / "runs").exists()


def test_an_invalid_study_name_is_refused(folder: Path) -> None:
    result = run("--study", "../elsewhere")
    assert isinstance(result.exception, InvalidInputError)
    assert "study: expected a name such as " in str(result.exception)


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [
        *COMMAND,
        "search",
        "cartpole",
        "--effort",
        "0.005",
        "--publish",
        "0",
        "--workers",
        "2",
        *arguments,
    ]
    return subprocess.Popen(
        command,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=hear_interrupts,
    )


def hear_interrupts() -> None:
    """What a script starts in the background ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(journal: Path, words: str, seconds: float = 300) -> None:
    until(
        lambda: journal.exists() and words in journal.read_text(encoding="utf-8"),
        seconds,
        f"{words} in {journal}",
        every=0.1,
    )


def count(study: Path) -> list[str]:
    from slimq_compression.search.study import SearchSettings, finished_trials, open_study

    settings = SearchSettings(Path("policies"), "cartpole", study=study.name)
    return [trial.state.name for trial in finished_trials(open_study(settings))]


@pytest.mark.slow
def test_ctrl_c_stops_all_workers_and_the_same_command_resumes(folder: Path) -> None:
    study = folder / "runs/search/cartpole/mine"
    options = ("--study", "mine")
    with start("--trials", "500", *options) as process:  # more than end before the signal comes
        wait_for(study / "journal.jsonl", "latency_ratio")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=180)
    assert process.returncode == 130
    assert "stopped; the same command resumes runs/search/cartpole/mine" in errors
    assert "Traceback" not in errors
    more = len(count(study)) + 2
    again = run("--trials", str(more), *options, "--publish", "0", "--workers", "1")
    assert again.exit_code == 0
    assert len(count(study)) == more


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_search(folder: Path, number: signal.Signals) -> None:
    with start("--trials", "500", "--study", "mine") as process:
        wait_for(folder / "runs/search/cartpole/mine/journal.jsonl", "latency_ratio")
        workers = workers_of(process.pid)
        assert len(workers) == 2
        process.send_signal(number)
        process.communicate(timeout=180)  # until all have ended who hold its pipes
    assert all(has_ended(pid) for pid in workers)


def workers_of(pid: int) -> list[int]:
    """The processes in which a search works."""
    lines = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children_of(pid)}
    return [child for child, line in lines.items() if b"spawn_main" in line]


@pytest.mark.slow
def test_a_worker_that_is_killed_is_reported_and_its_trial_is_not_lost(folder: Path) -> None:
    study = folder / "runs/search/cartpole/mine"
    options = ("--trials", "3", "--study", "mine")
    with start(*options) as process:
        wait_for(study / "journal.jsonl", "latency_ratio")
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=180)
    assert process.returncode == 1
    assert "(exit code -9) died" in errors
    assert run(*options, "--publish", "0", "--workers", "1").exit_code == 0
    assert len(count(study)) == 3
