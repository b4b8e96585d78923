"""`slimq policies` lists, shows and verifies a repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from reports import make_report_of
from slimq.cli.policies import app
from slimq.core.errors import CheckFailedError, NotFoundError, RepositoryError
from slimq.core.repository import Repository


@pytest.fixture
def command(tiny_repository: Path) -> Any:
    """Runs `slimq policies …` on the small repository, in this process."""

    def run(*arguments: str) -> Result:
        runner = CliRunner()
        result = runner.invoke(app, [*arguments, "--policies", str(tiny_repository)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            result.exception.printed = result.stdout  # type: ignore[attr-defined]
            raise result.exception
        return result

    return run


@pytest.fixture
def evaluated(tiny_repository: Path, attach_report: Any) -> None:
    attach_report(tiny_repository, "tiny", "fp32", 123.456)


@pytest.fixture
def attach_report() -> Any:
    from slimq.core.publish import Publisher

    def attach(root: Path, policy: str, variant: str, mean: float) -> None:
        repository = Repository(root)
        report = make_report_of(repository.variant(policy, variant), [mean])
        Publisher(repository).attach_report(policy, variant, report)

    return attach


@pytest.mark.usefixtures("evaluated")
def test_list_prints_environment_bytes_and_mean_return(command: Any, tiny_repository: Path) -> None:
    lines = command("list").stdout.splitlines()
    names = [line.split()[0] for line in lines]
    assert names == ["tiny", "fp32", "other", "tiny_frames", "fp32", "other"]
    assert lines[0] == "tiny (CartPole-v1)"
    size = Repository(tiny_repository).variant("tiny", "fp32").model.bytes
    assert f"{size:,} bytes   mean return 123.46" in lines[1]
    assert "(default)" in lines[1]
    assert "not evaluated" in lines[2]


@pytest.mark.usefixtures("evaluated")
def test_list_prints_json(command: Any, tiny_repository: Path) -> None:
    rows = json.loads(command("list", "--json").stdout)
    assert [row["policy"] for row in rows] == ["tiny", "tiny_frames"]
    assert rows[1]["environment"] == "ALE/Pong-v5"
    model = Repository(tiny_repository).variant("tiny", "fp32").model
    assert rows[0]["variants"][0] == {
        "variant": "fp32",
        "precision": "fp32",
        "bytes": model.bytes,
        "sha256": model.sha256,
        "mean_return": 123.456,
        "agreement": 0.97,
        "stale": False,
    }
    assert rows[0]["variants"][1]["mean_return"] is None


def test_list_shows_invalid_variants_as_well(command: Any, tiny_repository: Path) -> None:
    (tiny_repository / "tiny/variants/other/variant.json").write_text("{", encoding="utf-8")
    (tiny_repository / "tiny_frames/policy.json").write_text("{", encoding="utf-8")
    lines = command("list").stdout.splitlines()
    assert "bytes" in lines[1]
    assert "tiny/variants/other/variant.json: Invalid JSON" in lines[2]
    assert lines[3].startswith("tiny_frames: tiny_frames/policy.json: Invalid JSON")
    rows = json.loads(command("list", "--json").stdout)
    assert "Invalid JSON" in rows[1]["problem"]


def test_list_marks_variants_made_from_another_checkpoint(
    command: Any, tiny_repository: Path
) -> None:
    for path, entries in (
        ("tiny/policy.json", {"checkpoint": {"path": "c", "bytes": 1, "sha256": "1" * 64}}),
        ("tiny/variants/fp32/variant.json", {"parent": "0" * 64}),
        ("tiny/variants/other/variant.json", {"parent": "1" * 64}),
    ):
        manifest = json.loads((tiny_repository / path).read_text()) | entries
        (tiny_repository / path).write_text(json.dumps(manifest))
    lines = command("list").stdout.splitlines()
    note = "made from another checkpoint"
    assert [note in line for line in lines[1:3]] == [True, False]
    rows = json.loads(command("show", "tiny", "--json").stdout)["variants"]
    assert [row["stale"] for row in rows] == [True, False]


def test_list_of_an_empty_repository_says_so(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["list", "--policies", str(tmp_path)])
    assert "has no policies yet" in result.stdout


def test_show_prints_a_policy(command: Any, tiny_repository: Path) -> None:
    shown = json.loads(command("show", "tiny", "--json").stdout)
    variants = shown.pop("variants")
    assert shown.pop("proven_in_play") is True
    assert shown == Repository(tiny_repository).policy("tiny").model_dump(mode="json")
    assert [row["variant"] for row in variants] == ["fp32", "other"]
    text = command("show", "tiny").stdout
    assert "  id: CartPole-v1\n" in text
    assert "actions: left, right\n" in text
    assert "  - variant: fp32\n" in text


@pytest.mark.usefixtures("evaluated")
def test_show_prints_a_variant_with_its_report(command: Any, tiny_repository: Path) -> None:
    shown = json.loads(command("show", "tiny", "fp32", "--json").stdout)
    assert shown.pop("report_content")["mean"] == 123.456
    assert shown == Repository(tiny_repository).variant("tiny", "fp32").model_dump(mode="json")
    assert "mean: 123.456\n" in command("show", "tiny", "fp32").stdout
    assert "report_content: -" in command("show", "tiny", "other").stdout


def test_show_of_an_unknown_name_lists_the_available_ones(command: Any) -> None:
    with pytest.raises(NotFoundError, match="available: tiny, tiny_frames"):
        command("show", "pong")
    with pytest.raises(NotFoundError, match="available: fp32, other"):
        command("show", "tiny", "int8")


def test_verify_reports_success(command: Any) -> None:
    assert command("verify").stdout == "tiny: ok, 2 variants\ntiny_frames: ok, 2 variants\n"
    assert command("verify", "tiny").stdout == "tiny: ok, 2 variants\n"
    assert json.loads(command("verify", "--json").stdout) == {"tiny": [], "tiny_frames": []}


def test_verify_prints_each_problem_and_fails(command: Any, tiny_repository: Path) -> None:
    model = Repository(tiny_repository).variant("tiny", "fp32").model
    (tiny_repository / "tiny/variants/fp32" / model.path).write_bytes(b"tampered")
    (tiny_repository / "tiny/variants/other/variant.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckFailedError, match=r"^2 problems in ") as caught:
        command("verify")
    printed = caught.value.printed.splitlines()  # type: ignore[attr-defined]
    assert printed[0].startswith(f"tiny/variants/fp32/{model.path}: has 8 bytes")
    assert printed[1].startswith("tiny/variants/other/variant.json: Invalid JSON")
    assert printed[2] == "tiny_frames: ok, 2 variants"
    with pytest.raises(CheckFailedError) as caught:
        command("verify", "tiny", "--json")
    problems = json.loads(caught.value.printed)["tiny"]  # type: ignore[attr-defined]
    assert problems[0]["path"] == f"tiny/variants/fp32/{model.path}"


def test_verify_finds_folders_without_a_manifest(command: Any, tiny_repository: Path) -> None:
    (tiny_repository / "tiny/policy.json").unlink()
    (tiny_repository / "tiny_frames/variants/other/variant.json").unlink()
    for name in ("README.md", "not a name/file", "empty/.lock", "tiny_frames/variants/new/.tmp-1"):
        path = tiny_repository / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    with pytest.raises(CheckFailedError, match=r"^2 problems in ") as caught:
        command("verify")
    printed = caught.value.printed.splitlines()  # type: ignore[attr-defined]
    assert printed[0] == "tiny: has files but no policy.json"
    assert printed[1].startswith("tiny_frames/variants/other: has files but no variant.json")
    with pytest.raises(CheckFailedError, match=r"^1 problem in "):
        command("verify", "tiny")


def test_verify_of_an_empty_repository_fails(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["verify", "--policies", str(tmp_path)])
    assert isinstance(result.exception, CheckFailedError)
    assert str(result.exception) == f"{tmp_path} has no policies"


def test_a_missing_repository_is_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["list", "--policies", str(tmp_path / "nowhere")])
    assert isinstance(result.exception, RepositoryError)
    assert "nowhere: cannot be listed" in str(result.exception)


def test_the_exit_code_tells_failed_checks_from_errors(slimq: Any, tiny_repository: Path) -> None:
    (tiny_repository / "tiny/variants/other/variant.json").write_text("{", encoding="utf-8")
    failed = slimq("policies", "verify", "--policies", tiny_repository)
    assert failed.returncode == 1
    assert failed.stderr.startswith("slimq: 1 problem in ")
    wrong = slimq("policies", "show", "nope", "--policies", tiny_repository)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "unknown policy 'nope'" in wrong.stderr


@pytest.fixture
def stray(tiny_repository: Path) -> Path:
    path = tiny_repository / "tiny/variants/fp32/model-0123456789ab.onnx"
    path.write_bytes(b"unnamed")
    return path


def test_clean_prints_what_it_removed(command: Any, stray: Path) -> None:
    assert command("clean", "tiny").stdout == "tiny: nothing to remove\n"
    assert stray.exists(), "it is younger than the grace period"
    lines = command("clean", "--grace-seconds", "0").stdout.splitlines()
    assert lines == [
        f"removed tiny/variants/fp32/{stray.name}",
        "tiny_frames: nothing to remove",
    ]
    assert not stray.exists()
    assert "ok" in command("verify", "tiny").stdout


def test_clean_prints_json(command: Any, stray: Path) -> None:
    removed = json.loads(command("clean", "tiny", "--grace-seconds", "0", "--json").stdout)
    place = f"tiny/variants/fp32/{stray.name}"
    assert removed == {"tiny": {"removed": [place], "problem": None}}


def test_clean_leaves_an_invalid_policy_and_continues(
    command: Any, tiny_repository: Path, stray: Path
) -> None:
    (tiny_repository / "tiny/variants/other/variant.json").write_text("{", encoding="utf-8")
    other = tiny_repository / "tiny_frames/calibration-0123456789ab.npz"
    other.write_bytes(b"unnamed")
    with pytest.raises(CheckFailedError, match="1 policy not cleaned") as caught:
        command("clean", "--grace-seconds", "0")
    printed = caught.value.printed.splitlines()  # type: ignore[attr-defined]
    assert printed[0].startswith("tiny: tiny/variants/other/variant.json: Invalid JSON")
    assert printed[1] == f"removed tiny_frames/{other.name}"
    assert stray.exists()
    assert not other.exists()


def test_clean_of_an_unknown_policy_lists_the_available_ones(command: Any) -> None:
    with pytest.raises(NotFoundError, match="available: tiny, tiny_frames"):
        command("clean", "pong")
