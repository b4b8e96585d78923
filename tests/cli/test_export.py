"""`slimq export`: its output, its JSON, its refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from web_exports import require_runtime


def test_a_variant_without_evidence_says_so(run: Any, tmp_path: Path) -> None:
    output = tmp_path / "out"
    code, out, _ = run(
        "export", "tiny", "--variant", "fp32", "--target", "c", "--output", str(output)
    )
    assert code == 0
    assert out.startswith(f"tiny/fp32 as c in {output}\n  flash ")
    assert "No evidence: this variant has not been evaluated." in out
    assert "No evidence: this variant has not been evaluated." in (output / "policy.h").read_text()


def test_json_is_the_report(run: Any, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = ["--target", "c", "--output", str(output), "--vectors", "5", "--json"]
    code, out, _ = run("export", "tiny_frames", "--variant", "other", *arguments)
    assert code == 0
    assert json.loads(out) == json.loads((output / "report.json").read_text())
    assert json.loads(out)["ram"]["frame"] == 84 * 84


def test_an_earlier_export_is_replaced_with_force_only(run: Any, tmp_path: Path) -> None:
    arguments = ["tiny", "--variant", "fp32", "--target", "c", "--output", str(tmp_path / "out")]
    assert run("export", *arguments)[0] == 0
    code, _, err = run("export", *arguments)
    assert code == 2
    assert "an earlier export; --force replaces it" in err
    assert run("export", *arguments, "--force")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["--target", "d"], 2, "target: expected c or onnx or web, received 'd'"),
        (["--variant", "othr"], 2, "unknown variant 'othr', did you mean 'other'?"),
        (["--cpu", "cortex-m5"], 2, "cpu: expected cortex-m0 or "),
        (["--optimize", "spede"], 2, "optimize: expected size or speed, received 'spede'"),
        (["--vectors", "0"], 2, "vectors: expected a number from 1 to 100,000, received 0"),
        (["--prefix", "int"], 2, "prefix: expected a lower-case identifier of C"),
        (["--prefix", "a-b"], 2, "prefix: expected a lower-case identifier of C"),
        (["--prefix", "selftest"], 2, "prefix: expected a name other than those of C's headers"),
        (["--max-flash", "much"], 2, "--max-flash: expected a positive size such as 20kB"),
        (["--max-flash", "100"], 1, "tiny/fp32 needs about "),
        (
            ["--target", "web", "--runtime", "none.tgz"],
            2,
            "received none.tgz, which does not exist",
        ),
    ],
)
def test_wrong_use_exits_with_2_and_what_does_not_fit_with_1(
    run: Any, tmp_path: Path, arguments: list[str], code: int, problem: str
) -> None:
    base = ["--variant", "fp32", "--target", "c", "--output", str(tmp_path / "out")]
    found, out, err = run("export", "tiny", *base, *arguments)
    assert (found, out) == (code, "")
    assert problem in err
    assert not (tmp_path / "out").exists()


def test_an_onnx_file_is_described_in_a_few_lines(run: Any, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = ["tiny", "--variant", "fp32", "--target", "onnx", "--output", str(output)]
    code, out, _ = run("export", *arguments)
    assert code == 0
    assert out.startswith(f"tiny/fp32 as onnx in {output / 'tiny-fp32.onnx'}\n  file ")
    assert "No evidence: this variant has not been evaluated." in out
    assert {path.name for path in output.iterdir()} == {"tiny-fp32.onnx", "report.json"}


def test_a_page_is_exported_with_a_line_that_serves_it(run: Any, tmp_path: Path) -> None:
    require_runtime()
    output = tmp_path / "my page"
    arguments = ["tiny", "--variant", "fp32", "--target", "web", "--output", str(output)]
    code, out, _ = run("export", *arguments)
    assert code == 0
    assert out.startswith(f"tiny/fp32 as web in {output}\n  model ")
    assert "the environment is in the page" in out
    assert "No evidence: this variant has not been evaluated." in out
    assert out.endswith(f"python -m http.server --directory '{output}'\n")
    code, out, _ = run("export", *arguments, "--force", "--json")
    assert code == 0
    assert json.loads(out) == json.loads((output / "report.json").read_text())
