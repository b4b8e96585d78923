"""Interrupted recipes go on after the last finished step, and end as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from slimq_compression import resume
from slimq_compression.context import silent
from slimq_compression.pipeline import run_recipe
from slimq_compression.recipe import Recipe, parse_recipe
from slimq_compression.resume import StepStore
from slimq_compression.source import load_source

FINETUNE = """
[[network]]
pass = "finetune"
rounds = 2
states = 60
replay_states = 60
updates = 15
batch_size = 16
"""
RECIPE = f"""
name = "twice"
seed = {{seed}}
[[network]]
pass = "student"
hidden = [8]
{FINETUNE}
{FINETUNE}
[accept]
agreement = 0.0
"""
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def every_step_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "LONG_SECONDS", 0.0)


@pytest.fixture
def source(cartpole_repository: Any) -> Any:
    return load_source(cartpole_repository, "cartpole")


def recipe(seed: int = 3, text: str = RECIPE) -> Recipe:
    return parse_recipe(text.format(seed=seed), "twice.toml")


class Bars:
    """Counts the trainings that begin, and interrupts one of them."""

    def __init__(self, interrupted: int | None = None) -> None:
        self.begun, self.interrupted = 0, interrupted

    def __call__(self, description: str, total: int, unit: str, /) -> Any:
        if description == "finetune":
            self.begun += 1
            if self.begun == self.interrupted:
                raise KeyboardInterrupt
        return silent(description, total, unit)


def test_an_interrupted_recipe_goes_on_and_gives_the_same_bytes(
    source: Any, tmp_path: Path
) -> None:
    whole = run_recipe(recipe(), source)
    store = StepStore(tmp_path / "work")
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe(), source, progress=Bars(interrupted=2), store=store)
    bars, shown = Bars(), []
    resumed = run_recipe(recipe(), source, progress=bars, store=store, on_step=shown.append)
    assert bars.begun == 1
    assert [step.name for step in shown] == ["student", "finetune", "finetune", "export"]
    assert resumed.stored == whole.stored
    assert [step.model_dump(exclude={"seconds"}) for step in resumed.manifest.recipe.steps] == [
        step.model_dump(exclude={"seconds"}) for step in whole.manifest.recipe.steps
    ]


def test_recipes_that_begin_alike_share_their_beginning(source: Any, tmp_path: Path) -> None:
    store = StepStore(tmp_path)
    run_recipe(recipe(), source, store=store)
    shorter = RECIPE.replace(FINETUNE, "", 1)
    bars = Bars()
    once = run_recipe(recipe(text=shorter), source, progress=bars, store=store)
    assert bars.begun == 0
    assert once.stored == run_recipe(recipe(text=shorter), source).stored


CHANGES = ["seed", "parameter", "start", "threads", "versions", "sources", "opset"]


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_made_otherwise_is_not_taken(
    source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    store = StepStore(tmp_path)
    run_recipe(recipe(), source, store=store)
    assert store.find(source.digest, recipe(), CPU) is not None
    start, other = source.digest, recipe()
    if change == "seed":
        other = recipe(seed=4)
    elif change == "parameter":
        other = recipe(text=RECIPE.replace("hidden = [8]", "hidden = [9]"))
    elif change == "start":
        start = "another checkpoint"
    elif change == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    elif change == "versions":
        monkeypatch.setattr(resume, "version", lambda library: "0")
    elif change == "sources":
        monkeypatch.setattr(resume, "sources_digest", lambda: "other code")
    else:
        other = recipe(text=RECIPE.replace("[accept]", "[export]\nopset = 17\n[accept]"))
    assert store.find(start, other, CPU) is None


def test_what_is_forced_is_done_again_and_kept(source: Any, tmp_path: Path) -> None:
    store = StepStore(tmp_path)
    run_recipe(recipe(), source, store=store)
    bars = Bars()
    run_recipe(recipe(), source, progress=bars, store=store, resume=False)
    assert bars.begun == 2


def kept(folder: Path, steps: int) -> Path:
    """The record of so many finished steps."""
    records = {path: json.loads(path.read_text())["records"] for path in folder.glob("*.json")}
    (found,) = (path for path, made in records.items() if len(made) == steps)
    return found


def test_a_cut_file_is_passed_over_for_the_step_before(source: Any, tmp_path: Path) -> None:
    store = StepStore(tmp_path)
    run_recipe(recipe(), source, store=store)
    found = store.find(source.digest, recipe(), CPU)
    assert found is not None
    assert len(found.records) == 3
    last = kept(tmp_path, 3).with_suffix(".safetensors")
    last.write_bytes(last.read_bytes()[:-10])
    found = store.find(source.digest, recipe(), CPU)
    assert found is not None
    assert len(found.records) == 2
    kept(tmp_path, 2).write_text("{}")
    found = store.find(source.digest, recipe(), CPU)
    assert found is not None
    assert len(found.records) == 1


def test_networks_on_grids_and_quick_steps_are_not_kept(
    source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StepStore(tmp_path)
    levels = '[[network]]\npass = "quantize_weights"\n'
    run_recipe(recipe(text=RECIPE.replace(FINETUNE, levels, 1)), source, store=store)
    assert len(list(tmp_path.glob("*.json"))) == 1
    monkeypatch.setattr(resume, "LONG_SECONDS", 1e6)
    run_recipe(recipe(seed=9), source, store=store)
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_a_folder_that_cannot_be_written_is_no_error(source: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = StepStore(tmp_path / "file" / "below")
    assert run_recipe(recipe(), source, store=store).stored
