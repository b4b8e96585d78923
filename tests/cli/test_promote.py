"""`slimq promote`: what is promoted, what is refused, and going back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slimq.core.publish import Publisher
from slimq.core.repository import Repository


@pytest.fixture
def judged(attach: Any) -> None:
    attach("fp32", [100.0, 120.0] * 10)
    attach("other", [99.0, 119.0] * 10)


@pytest.fixture
def defaults(tiny_repository: Path) -> Any:
    """`defaults()`: the default of `tiny` and the one before."""

    def read() -> tuple[str, str | None]:
        manifest = Repository(tiny_repository).policy("tiny")
        return manifest.default_variant, manifest.previous_default

    return read


def test_a_variant_with_evidence_is_promoted_and_rolled_back(
    run: Any, judged: None, defaults: Any
) -> None:
    done = run("promote", "tiny", "other")
    assert done == (0, "tiny: the default is now other (was fp32)\n", "")
    assert defaults() == ("other", "fp32")
    assert run("promote", "tiny", "other")[1] == "tiny: other is already the default\n"
    assert defaults() == ("other", "fp32")
    done = run("promote", "tiny", "--rollback")
    assert done == (0, "tiny: the default is now fp32 (was other)\n", "")
    assert defaults() == ("fp32", "other")


def test_json_says_what_changed(run: Any, judged: None) -> None:
    _, out, _ = run("promote", "tiny", "other", "--json")
    assert json.loads(out) == {
        "policy": "tiny",
        "default_variant": "other",
        "previous_default": "fp32",
        "changed": True,
        "routing_ended": False,
    }


def test_a_promotion_clears_the_weights(run: Any, judged: None, tiny_repository: Path) -> None:
    run("policies", "route", "tiny", "fp32=9", "other=1")
    _, out, _ = run("promote", "tiny", "other")
    assert out == "tiny: the default is now other (was fp32); routing weights cleared\n"
    assert Repository(tiny_repository).policy("tiny").routing is None


def test_policies_show_and_list_display_the_default(run: Any, judged: None) -> None:
    run("promote", "tiny", "other")
    _, out, _ = run("policies", "show", "tiny")
    assert "default_variant: other\nprevious_default: fp32\n" in out
    _, out, _ = run("policies", "list")
    assert "  other (default)" in out
    assert run("policies", "verify", "tiny")[0] == 0


def test_a_variant_without_a_report_is_refused(run: Any, defaults: Any) -> None:
    code, out, err = run("promote", "tiny", "other")
    assert (code, out) == (1, "")
    assert err == (
        "slimq: tiny/other was not promoted: not evaluated: run slimq evaluate tiny; "
        "use --force to promote it anyway\n"
    )
    assert defaults() == ("fp32", None)


def test_a_variant_that_loses_more_than_the_margin_is_refused(
    run: Any, attach: Any, defaults: Any
) -> None:
    attach("fp32", [100.0, 120.0] * 10)
    attach("other", [90.0, 110.0] * 10)
    code, _, err = run("promote", "tiny", "other")
    assert code == 1
    assert "undisturbed, the lower bound of -11.11% is 9.11% below the margin of -2.00%" in err
    assert defaults() == ("fp32", None)


def test_a_variant_of_another_checkpoint_is_refused(
    run: Any, judged: None, defaults: Any, tiny_repository: Path
) -> None:
    from slimq.core.publish import content_entry

    repository = Repository(tiny_repository)
    for name in ("fp32", "other"):
        path = tiny_repository / "tiny" / "variants" / name / "variant.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"parent": "1" * 64}))
    entry = content_entry("checkpoint", ".safetensors", b"weights")
    manifest = repository.policy("tiny").model_copy(update={"checkpoint": entry})
    Publisher(repository).publish_policy(manifest, {entry.path: b"weights"})
    code, _, err = run("promote", "tiny", "other")
    assert code == 1
    assert "made from another checkpoint than the policy's: run slimq compress tiny other" in err
    assert defaults() == ("fp32", None)


def test_a_variant_whose_report_is_of_another_model_is_refused(
    run: Any, judged: None, tiny_repository: Path
) -> None:
    folder = tiny_repository / "tiny" / "variants"
    other, full = (json.loads((folder / n / "variant.json").read_text()) for n in ("other", "fp32"))
    (folder / "other" / full["model"]["path"]).write_bytes(
        (folder / "fp32" / full["model"]["path"]).read_bytes()
    )
    (folder / "other" / "variant.json").write_text(json.dumps(other | {"model": full["model"]}))
    code, _, err = run("promote", "tiny", "other")
    assert code == 1
    assert "model_sha256: is not that of the variant's model" in err


def test_force_promotes_without_evidence(run: Any, defaults: Any) -> None:
    assert run("promote", "tiny", "other", "--force")[0] == 0
    assert defaults() == ("other", "fp32")


def test_force_does_not_promote_a_corrupt_model(
    run: Any, defaults: Any, tiny_repository: Path
) -> None:
    next((tiny_repository / "tiny" / "variants" / "other").glob("model-*")).unlink()
    code, _, err = run("promote", "tiny", "other", "--force")
    assert code == 2
    assert "is missing" in err
    assert defaults() == ("fp32", None)


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_an_unknown_variant_exits_with_2(run: Any, force: list[str]) -> None:
    code, _, err = run("promote", "tiny", "othr", *force)
    assert code == 2
    assert "unknown variant 'othr', did you mean 'other'?" in err


def test_without_a_promotion_there_is_no_rollback(run: Any) -> None:
    assert run("promote", "tiny", "--rollback") == (
        2,
        "",
        "slimq: previous_default: expected a policy whose default was changed by slimq promote, "
        "received 'tiny', which has none\n",
    )


@pytest.mark.parametrize(
    ("arguments", "received"), [([], "neither"), (["other", "--rollback"], "both")]
)
def test_either_a_variant_or_rollback_is_required(
    run: Any, arguments: list[str], received: str
) -> None:
    assert run("promote", "tiny", *arguments) == (
        2,
        "",
        f"slimq: VARIANT: expected either a variant or --rollback, received {received}\n",
    )


def test_a_variant_that_is_known_not_to_be_robust_is_refused_unless_forced(
    run: Any, attach: Any, defaults: Any
) -> None:
    returns = [100.0, 120.0] * 10
    attach("fp32", returns, conditions={"sticky=0.25": returns, "blur=1": returns})
    lower = [one - 10 for one in returns]
    attach("other", returns, conditions={"sticky=0.25": lower, "blur=1": lower})
    code, _, err = run("promote", "tiny", "other")
    assert code == 1
    assert err == (
        "slimq: tiny/other was not promoted: under sticky=0.25, the lower bound "
        "of -11.11% is 6.11% below the margin of -5.00%; use --force to promote it anyway\n"
    )
    assert defaults() == ("fp32", None)
    assert run("promote", "tiny", "other", "--force")[0] == 0
    assert defaults() == ("other", "fp32")


def test_a_condition_that_decides_nothing_does_not_stop_a_promotion(
    run: Any, attach: Any, defaults: Any
) -> None:
    returns = [100.0, 120.0] * 10
    attach("fp32", returns, conditions={"sticky=0.25": [50.0] * 20})
    attach("other", returns, conditions={"sticky=0.25": [20.0] * 20})
    assert run("promote", "tiny", "other")[0] == 0
    assert defaults() == ("other", "fp32")
