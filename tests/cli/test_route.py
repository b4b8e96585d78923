"""`slimq policies route`: weights, the shadow, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slimq.core.manifest import Routing, Shadow
from slimq.core.repository import Repository


@pytest.fixture
def manifest(tiny_repository: Path) -> Any:
    return lambda: Repository(tiny_repository).policy("tiny")


def test_weights_are_set_shown_and_cleared(run: Any, manifest: Any) -> None:
    line = "tiny: requests that name no variant go to fp32 (90%), other (10%)\n"
    assert run("policies", "route", "tiny", "fp32=90", "other=10") == (0, line, "")
    assert manifest().routing == Routing(weights={"fp32": 90, "other": 10})
    assert run("policies", "route", "tiny") == (0, line, "")
    done = run("policies", "route", "tiny", "--clear")
    assert done == (0, "tiny: requests that name no variant go to fp32 (100%)\n", "")
    assert manifest().routing is None


def test_the_shadow_is_set_and_removed_beside_the_weights(run: Any, manifest: Any) -> None:
    run("policies", "route", "tiny", "fp32=1", "other=1")
    _, out, _ = run("policies", "route", "tiny", "--shadow", "other", "--share", "0.25")
    assert out.endswith("fp32 (50%), other (50%); shadow: other (25%)\n")
    assert manifest().shadow == Shadow(variant="other", share=0.25)
    _, out, _ = run("policies", "route", "tiny", "--shadow", "other", "--json")
    assert json.loads(out) == {
        "policy": "tiny",
        "default_variant": "fp32",
        "shares": {"fp32": 0.5, "other": 0.5},
        "shadow": {"variant": "other", "share": 1.0},
    }
    run("policies", "route", "tiny", "--no-shadow")
    assert manifest().shadow is None
    assert manifest().routing is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fp32"], "VARIANT=WEIGHT"),
        (["fp32=-1"], "from 0 to 1e9"),
        (["fp32=nan"], "from 0 to 1e9"),
        (["fp32=inf"], "from 0 to 1e9"),
        (["=1"], "VARIANT=WEIGHT"),
        (["fp32=1", "fp32=2"], "each variant once"),
        (["fp32=0", "other=0"], "a weight above 0"),
        (["fp32=1", "--clear"], "both"),
        (["--shadow", "other", "--no-shadow"], "both"),
        (["--share", "0.5"], "--shadow VARIANT"),
        (["--shadow", "other", "--share", "0"], "above 0 and at most 1"),
        (["--shadow", "other", "--share", "1.5"], "above 0 and at most 1"),
        (["--shadow", "other", "--share", "nan"], "above 0 and at most 1"),
        (["FOO=1"], "the name of a variant"),
        ([f"v{n}=1" for n in range(65)], "at most 64"),
        (["--shadow", "FOO"], "the name of a variant"),
        (["fp32=1", "other=1", "--shadow", "none"], "unknown variant 'none'"),
        (["none=1"], "unknown variant 'none'"),
        (["--shadow", "none"], "unknown variant 'none'"),
    ],
)
def test_invalid_arguments_are_named_and_nothing_is_written(
    run: Any, manifest: Any, words: list[str], message: str
) -> None:
    before = manifest()
    code, out, err = run("policies", "route", "tiny", *words)
    assert (code, out) == (2, "") or (code, out) == (1, "")
    assert message in err
    assert manifest() == before


def test_verify_finds_weights_and_shadows_of_removed_variants(
    run: Any, tiny_repository: Path
) -> None:
    path = tiny_repository / "tiny" / "policy.json"
    document = json.loads(path.read_text())
    document |= {"routing": {"weights": {"gone": 1}}, "shadow": {"variant": "lost", "share": 1}}
    path.write_text(json.dumps(document))
    code, out, _ = run("policies", "verify", "tiny")
    assert code == 1
    assert "routing.weights: there is no variant 'gone'" in out
    assert "shadow.variant: there is no variant 'lost'" in out


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"routing": {"weights": {"fp32": 0}}}, "greater than 0"),
        ({"routing": {"weights": {}}}, "routing.weights"),
        ({"routing": {"weights": {"fp32": -1}}}, "routing.weights.fp32"),
        ({"shadow": {"variant": "fp32", "share": 0}}, "shadow.share"),
    ],
)
def test_a_manifest_with_impossible_weights_is_refused(
    run: Any, tiny_repository: Path, document: dict[str, Any], message: str
) -> None:
    path = tiny_repository / "tiny" / "policy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | document))
    code, _, err = run("policies", "route", "tiny")
    assert code != 0
    assert message in err
