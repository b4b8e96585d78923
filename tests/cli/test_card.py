from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

from full_disk import contents, fill, small_disk
from parts import build_parts_repository
from slimq.core.repository import Repository

SHIPPED = Path(__file__).parents[2] / "policies"


@pytest.fixture
def card(invoke: Any, tmp_path: Path) -> Any:
    """`card("cartpole", …)`: exit code, stdout, stderr, the folder."""

    def call(policy: str, *options: str, policies: Path = SHIPPED) -> Any:
        output = tmp_path / "card"
        arguments = ("--output", str(output), "--policies", str(policies), *options)
        return *invoke("card", policy, *arguments), output

    return call


def table_after(text: str, heading: str) -> list[list[str]]:
    """The rows of the first table after a heading, without its header and rule."""
    lines = text.split(f"{heading}\n", 1)[1].lstrip().splitlines()
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows[2:]


def test_a_hub_reads_environment_and_return_from_the_front_matter(card: Any) -> None:
    code, _, errors, folder = card("acrobot-cleanrl", "--no-replay", "--license", "apache-2.0")
    assert (code, errors) == (0, "")
    data = ModelCard.load(folder / "README.md", ignore_metadata_errors=False).data
    assert (data.library_name, data.license) == ("slimq", "apache-2.0")
    assert data.tags[:4] == [
        "Acrobot-v1",
        "deep-reinforcement-learning",
        "reinforcement-learning",
        "dqn",
    ]
    (result,) = data.eval_results
    report = Repository(SHIPPED).report("acrobot-cleanrl", "fp32")
    assert report is not None
    assert report.returns is not None
    assert (result.task_type, result.dataset_name) == ("reinforcement-learning", "Acrobot-v1")
    assert (result.metric_type, result.metric_name) == ("mean_reward", "mean_reward")
    mean, deviation = map(float, result.metric_value.split(" +/- "))
    assert mean == pytest.approx(np.mean(report.returns), abs=0.005)
    assert deviation == pytest.approx(np.std(report.returns), abs=0.005)


def test_the_tables_are_those_of_the_reports(card: Any) -> None:
    *_, folder = card("cartpole-sb3", "--no-replay")
    text = (folder / "README.md").read_text("utf-8")
    repository = Repository(SHIPPED)
    rows = {row[0].strip("`"): row for row in table_after(text, "## Variants")}
    assert sorted(rows) == repository.variants("cartpole-sb3")
    for name, row in rows.items():
        variant, report = repository.variant("cartpole-sb3", name), None
        report = repository.report("cartpole-sb3", name)
        assert report is not None
        assert report.interval is not None
        assert row[1] == f"{variant.model.bytes:,}"
        assert row[3] == f"{report.mean:.2f}"
        assert row[4] == f"{report.interval.low:.2f} to {report.interval.high:.2f}"
        assert variant.model.sha256 in text
    assert [rows[name][6] for name in ("fp32", "whole-int8")] == ["yes", "no"]
    disturbed = {
        row[0].strip("`"): row for row in table_after(text, "### Mean return under disturbances")
    }
    assert disturbed["whole-int8"][5].endswith(" (fails)")
    assert report.latency is not None
    assert f"on {report.latency.processor}, one thread" in text
    record = repository.policy("cartpole-sb3").imported
    assert record is not None
    assert record.sha256 in text


def test_files_that_the_page_shows_exist(card: Any) -> None:
    code, out, errors, folder = card("cartpole", "--max-steps", "20", "--json")
    assert code == 0, errors
    files = json.loads(out)["files"]
    assert files == sorted(contents(folder).keys() - {"plots"})
    assert files == [
        "README.md",
        "plots/cartpole-latency.png",
        "plots/cartpole-return.png",
        "plots/cartpole-training.png",
        "replay.mp4",
    ]
    text = (folder / "README.md").read_text("utf-8")
    for name in files[1:4]:
        assert f"]({name})" in text
    assert '<video src="replay.mp4"' in text
    assert "One episode of held-out seed 3000000: `fp32` has 20 in 20 steps, `" in text


def test_a_replay_of_ones_own_is_shown(card: Any, tmp_path: Path) -> None:
    replay = tmp_path / "mine.gif"
    replay.write_bytes(b"GIF89a")
    *_, folder = card("cartpole", "--replay", str(replay))
    assert (folder / "replay.gif").read_bytes() == b"GIF89a"
    assert "![Replay](replay.gif)" in (folder / "README.md").read_text("utf-8")


def test_the_name_on_the_hub_is_in_the_usage(card: Any) -> None:
    *_, folder = card("cartpole", "--no-replay", "--repo-id", "someone/cartpole")
    text = (folder / "README.md").read_text("utf-8")
    assert "slimq policies pull someone/cartpole --policies policies\n" in text
    block = text.split("```python\n")[1].split("```")[0]
    compile(block, "README.md", "exec")
    assert "np.zeros((1, 4), np.float32)" in block


@pytest.fixture
def unproven(tmp_path: Path, invoke: Any) -> Path:
    root = build_parts_repository(tmp_path / "unproven")
    arguments = ("--no-latency", "--policies", str(root), "--work", str(tmp_path / "work"))
    assert invoke("evaluate", "maze", *arguments)[0] == 0
    return root


def test_a_policy_without_an_environment_is_not_proven_in_play(card: Any, unproven: Path) -> None:
    code, _, errors, folder = card("maze", policies=unproven)
    assert (code, errors) == (0, "")
    text = (folder / "README.md").read_text("utf-8")
    data = yaml.safe_load(text.split("---\n")[1])
    assert "model-index" not in data
    assert "**Not proven in play**" in text
    assert "mean return" not in text
    assert [row[0] for row in table_after(text, "## Variants")] == ["`fp32`", "`other`"]
    assert not (folder / "replay.mp4").exists()


def test_a_policy_without_reports_has_a_card_that_says_so(card: Any, tiny_repository: Path) -> None:
    code, _, errors, folder = card("tiny", "--no-replay", policies=tiny_repository)
    assert (code, errors) == (0, "")
    text = (folder / "README.md").read_text("utf-8")
    assert "- `fp32`, `other`: not evaluated: run slimq evaluate tiny\n" in text
    assert "model-index" not in text


def test_an_earlier_card_is_replaced_on_demand_only(card: Any) -> None:
    *_, folder = card("cliffwalking", "--no-replay")
    before = contents(folder)
    code, out, errors, _ = card("acrobot", "--no-replay")
    assert (code, out) == (2, "")
    assert "an earlier card; --force replaces it" in errors
    assert contents(folder) == before
    assert card("acrobot", "--no-replay", "--force")[0] == 0
    assert "plots/acrobot-return.png" in contents(folder)
    assert "plots/cliffwalking-return.png" not in contents(folder)


@pytest.mark.parametrize("other", ["thesis.txt", "README.md", "plots/precious.svg"])
def test_other_peoples_files_are_never_replaced(card: Any, tmp_path: Path, other: str) -> None:
    path = tmp_path / "card" / other
    path.parent.mkdir(parents=True)
    path.write_text("# precious")
    code, _, errors, folder = card("cartpole", "--no-replay", "--force")
    assert code == 2
    assert "which has other files" in errors
    assert path.read_text() == "# precious"
    assert [p for p in folder.rglob("*") if p.is_file()] == [path]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--replay", "a.avi"),
            "--replay: expected a file that ends in .mp4 or .gif, received a.avi",
        ),
        (("--replay", "no.mp4"), "--replay: expected a file, received no.mp4, which is none"),
        (("--replay", "a.mp4", "--no-replay"), "either --replay or --no-replay"),
        (("--license", "My own"), "--license: expected an identifier such as apache-2.0"),
        (("--repo-id", "pong"), "REPO_ID: expected a name such as user/pong, received 'pong'"),
        (("--repo-id", "../../pong"), "REPO_ID: expected a name such as user/pong"),
        (("--variants", "int9"), "unknown variant 'int9'"),
        (("--max-steps", "0"), "--max-steps: expected at least 1, received 0"),
    ],
)
def test_wrong_options_are_refused_in_one_line(
    card: Any, options: tuple[str, ...], message: str
) -> None:
    code, out, errors, folder = card("cartpole", *options)
    assert (code, out) == (2, "")
    assert message in errors
    assert errors.count("\n") == 1
    assert not folder.exists()


def test_an_unknown_policy_is_refused(card: Any) -> None:
    code, _, errors, folder = card("pung")
    assert code == 2
    assert "unknown policy 'pung', did you mean 'pong'?" in errors
    assert not folder.exists()


def test_a_full_disk_leaves_nothing(slimq: Any, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "96k") as disk:
        fill(disk).unlink()
        arguments = ("--policies", SHIPPED, "--output", disk / "card", "--no-replay")
        done = slimq("card", "cartpole", *arguments)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].endswith("No space left on device")
        assert contents(disk) == {}


def test_without_an_encoder_there_is_a_card_without_a_replay(tmp_path: Path) -> None:
    lines = [
        "import importlib.util, sys",
        "sys.modules['av'] = None",
        "found = importlib.util.find_spec",
        "importlib.util.find_spec = lambda n, *a: None if n == 'av' else found(n, *a)",
        "from slimq.cli.main import main",
        "main()",
    ]
    output = tmp_path / "card"
    arguments = ["card", "cliffwalking", "--policies", str(SHIPPED), "--output", str(output)]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "slimq: no replay: av is not installed: pip install 'slimq[video]'" in done.stderr
    assert (output / "README.md").exists()
    assert not (output / "replay.mp4").exists()


def test_the_same_policy_gives_the_same_card(card: Any) -> None:
    *_, folder = card("cliffwalking", "--no-replay")
    first = contents(folder)
    shutil.rmtree(folder)
    card("cliffwalking", "--no-replay")
    assert contents(folder) == first


@pytest.mark.slow
@pytest.mark.parametrize("policy", sorted(path.name for path in SHIPPED.iterdir()))
def test_every_shipped_policy_has_a_card(card: Any, policy: str) -> None:
    code, _, errors, folder = card(policy, "--max-steps", "50")
    assert code == 0, errors
    (result,) = ModelCard.load(folder / "README.md", ignore_metadata_errors=False).data.eval_results
    assert " +/- " in result.metric_value
    assert (folder / "replay.mp4").exists()
