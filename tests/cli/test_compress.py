from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from slimq.cli.main import app
from slimq.core.conditions.catalogue import Condition
from slimq.core.errors import AcceptGateError, InvalidInputError, NotFoundError
from slimq.core.threads import VARIABLE, thread_limit
from slimq_compression.recipe_files import resolve_recipe

pytest.importorskip("torch")

FP32 = 'name = "fp32"\n[accept]\nagreement = 0.99\n'
PRUNED = """
name = "pruned"
[[network]]
pass = "prune_channels"
ratio = 0.1
[accept]
agreement = 0.0
max_bytes = {limit}
"""

TAUGHT = """
name = "taught"
teacher = "twin"
[[network]]
pass = "finetune"
rounds = 1
states = 16
updates = 1
[accept]
agreement = 0.5
"""


@pytest.fixture
def cartpole_repository(tmp_path: Path) -> Any:
    from small_networks import build_cartpole

    return build_cartpole(tmp_path / "policies")


@pytest.fixture
def folder(cartpole_repository: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with recipes/ and policies/."""
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "fp32.toml").write_text(FP32, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "1")  # restored, since the command sets it
    return tmp_path


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["compress", *arguments])


def test_a_recipe_by_name_publishes_and_prints_every_step(folder: Path) -> None:
    result = run("cartpole", "fp32")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("cartpole/fp32: published, ")
    counts = ["step", "bytes", "parameters", "non-zero", "MACs"]
    assert lines[1].split() == [*counts, "agreement", "regret", "seconds"]
    assert lines[2].split()[0] == "export"
    assert lines[2].split()[2:7] == ["310", "310", "280", "100.0%", "0.00000"]
    assert lines[3] == "  passed: agreement 1 (at least 0.99)"
    assert (folder / "policies/cartpole/variants/fp32/variant.json").exists()
    assert run("cartpole", "fp32").stdout.startswith("cartpole/fp32: unchanged, ")


def test_the_teacher_of_a_variant_is_printed(folder: Path, cartpole_repository: Any) -> None:
    from slimq.core.publish import Publisher

    manifest = cartpole_repository.policy("cartpole")
    content = cartpole_repository.read_file("cartpole", manifest.checkpoint)
    twin = manifest.model_copy(update={"name": "twin", "calibration": None})
    Publisher(cartpole_repository).publish_policy(twin, {manifest.checkpoint.path: content})
    (folder / "recipes" / "taught.toml").write_text(TAUGHT, encoding="utf-8")
    result = run("cartpole", "taught")
    assert result.exit_code == 0, result.output
    heading = r"cartpole/taught: published, [\d,]+ bytes, taught by twin"
    assert re.fullmatch(heading, result.stdout.splitlines()[0])


def test_json_holds_status_manifest_and_the_gates_criteria(folder: Path) -> None:
    result = run("cartpole", "recipes/fp32.toml", "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    (outcome,) = json.loads(result.stdout)
    assert outcome["status"] == "staged"
    assert outcome["manifest"]["name"] == "fp32"
    assert outcome["accept"]["criteria"] == [
        {"name": "agreement", "value": 1.0, "relation": "at least", "limit": 0.99, "basis": ""}
    ]
    assert not (folder / "policies/cartpole/variants").exists()


def test_a_variant_that_falls_short_is_a_gate_error(folder: Path) -> None:
    (folder / "recipes/pruned.toml").write_text(PRUNED.format(limit=10), encoding="utf-8")
    result = run("cartpole", "pruned")
    assert isinstance(result.exception, AcceptGateError)
    assert "at most 10 is needed" in str(result.exception)
    assert not (folder / "policies/cartpole/variants").exists()


def test_an_unknown_recipe_lists_the_available_ones(folder: Path) -> None:
    with pytest.raises(NotFoundError, match="unknown recipe 'fp23', did you mean 'fp32'"):
        resolve_recipe("fp23", "cartpole")
    assert resolve_recipe("elsewhere/my.toml", "cartpole") == Path("elsewhere/my.toml")


def test_a_recipe_of_another_policy_is_shown_rather_than_called_unknown(folder: Path) -> None:
    (folder / "recipes" / "pong").mkdir()
    (folder / "recipes" / "pong" / "slim.toml").write_text(FP32, encoding="utf-8")
    message = r"recipe: expected .* \(.*fp32, .*\), received 'slim'.*recipes/pong/slim.toml"
    with pytest.raises(InvalidInputError, match=message):
        resolve_recipe("slim", "cartpole")


def test_the_returns_behind_the_gate_are_printed(folder: Path) -> None:
    (folder / "recipes" / "fp32.toml").write_text(FP32 + "margin = 1.0\nepisodes = 2\n")
    lines = run("cartpole", "fp32").stdout.splitlines()
    assert re.fullmatch(
        r"  played undisturbed: mean return [\d.]+, the full policy's [\d.]+; "
        r"0 of 2 episodes differ",
        lines[-1],
    )


def test_conditions_are_printed_each_with_its_bound_and_those_that_decide_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = (Condition(name="noise", strength=0.0), Condition(name="sticky", strength=1.0))
    monkeypatch.setattr("slimq_compression.conditions.standard_conditions", lambda _: chosen)
    accept = "margin = 1.0\nepisodes = 2\nrobust = true\n"
    (folder / "recipes" / "fp32.toml").write_text(FP32 + accept)
    lines = run("cartpole", "fp32").stdout.splitlines()
    assert "  passed: robust 0 (at least -0.05, under noise=0)" in lines
    skipped = r"  skipped: robust under sticky=1: the full policy itself loses 1?\d\d%"
    assert any(re.fullmatch(skipped, line) for line in lines)


def test_a_policys_own_recipe_takes_precedence(folder: Path) -> None:
    own = folder / "recipes/cartpole"
    own.mkdir()
    (own / "fp32.toml").write_text(FP32, encoding="utf-8")
    assert resolve_recipe("fp32", "cartpole") == Path("recipes/cartpole/fp32.toml")
    assert resolve_recipe("fp32", "pong") == Path("recipes/fp32.toml")


def test_a_recipe_that_no_folder_has_is_taken_from_the_package(folder: Path) -> None:
    shipped = resolve_recipe("int8", "cartpole")
    assert shipped.read_text(encoding="utf-8").startswith("# Static 8-bit")
    assert not shipped.is_relative_to(folder)
    (folder / "recipes/int8.toml").write_text(FP32, encoding="utf-8")
    assert resolve_recipe("int8", "cartpole") == Path("recipes/int8.toml")


def test_the_help_lists_the_recipes_that_there_are(folder: Path) -> None:
    (folder / "recipes/pong").mkdir()
    (folder / "recipes/pong/slim.toml").write_text(FP32, encoding="utf-8")
    text = " ".join(run("--help").stdout.split())
    assert re.search(r"For any policy: .*fp32, .*int8,.* In recipes/: fp32, pong/ \(slim\)\.", text)


def test_the_full_variant_is_made_first_by_itself(folder: Path) -> None:
    pruned = PRUNED.format(limit='"1/1"').replace("agreement = 0.0", "margin = 1.0\nepisodes = 2")
    (folder / "recipes/pruned.toml").write_text(pruned, encoding="utf-8")
    (folder / "recipes/fp32.toml").unlink()
    result = run("cartpole", "pruned")
    assert result.exit_code == 0, result.output
    heads = [line for line in result.stdout.splitlines() if line.startswith("cartpole/")]
    assert [head.split(",")[0] for head in heads] == [
        "cartpole/fp32: published",
        "cartpole/pruned: published",
    ]
    full = (folder / "policies/cartpole/variants/fp32").glob("model-*")
    (size,) = [path.stat().st_size for path in full]
    assert f"(at most {size}, 1/1 of the {size} bytes of fp32)" in result.stdout
    assert run("cartpole", "pruned").stdout.count("unchanged") == 1


@pytest.mark.parametrize(
    ("variable", "options", "threads"),
    [("", [], 1), ("3", [], 3), ("3", ["--threads", "2"], 2)],
)
def test_one_thread_is_the_default(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    options: list[str],
    threads: int,
) -> None:
    import torch

    before = torch.get_num_threads()
    monkeypatch.setenv(VARIABLE, variable)
    try:
        assert run("cartpole", "fp32", "--dry-run", *options).exit_code == 0
        assert (torch.get_num_threads(), thread_limit()) == (threads, threads)
    finally:
        torch.set_num_threads(before)


def test_a_mistake_in_one_recipe_stops_the_command_at_once(folder: Path) -> None:
    broken = PRUNED.format(limit=0)
    (folder / "recipes/pruned.toml").write_text(broken, encoding="utf-8")
    result = run("cartpole", "fp32", "pruned")
    assert "recipes/pruned.toml: accept.max_bytes: " in str(result.exception)
    assert not (folder / "policies/cartpole/variants").exists()
