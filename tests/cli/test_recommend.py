"""`slimq recommend`: the choice, the reasons, and the limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slimq.core.repository import Repository


@pytest.fixture
def judged(attach: Any) -> None:
    """`other` is a little worse than `fp32` and twice as fast; both are of the same size."""
    attach("fp32", [100.0, 120.0] * 10, p50=30.0)
    attach("other", [99.0, 119.0] * 10, p50=15.0)


def test_the_choice_comes_with_its_figures_and_the_runner_up(run: Any, judged: None) -> None:
    code, out, err = run("recommend", "tiny", "--for", "latency")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert (
        lines[0] == "other: the fastest variant of tiny that is non-inferior undisturbed at 2.00%"
    )
    assert lines[2] == "  p50 15.0 µs alone, batch 1 (× 2.00 faster)"
    assert lines[3] == "  mean return 109.00, lower bound -1.11%"
    assert lines[4] == (
        "  nothing is known beyond undisturbed play: run slimq evaluate tiny --conditions"
    )
    assert lines[5] == "also fit, next best first:"
    assert lines[6].startswith("  fp32: ")


def test_equal_bytes_go_to_the_higher_return(run: Any, judged: None) -> None:
    code, out, _ = run("recommend", "tiny")
    assert code == 0
    assert out.startswith("fp32: the smallest variant of tiny")


def test_a_rejected_variant_is_listed_with_its_reason(run: Any, judged: None) -> None:
    code, out, _ = run("recommend", "tiny", "--max-latency", "0.02ms", "--min-return", "50")
    assert code == 0
    assert out.startswith(
        "other: the smallest variant of tiny that is non-inferior undisturbed at 2.00%"
    )
    assert "at most 20 µs, with a mean return of at least 50" in out
    assert "do not fit:\n  fp32: p50 alone at batch 1, 30 µs, exceeds 20 µs by 10.00 µs" in out


def test_if_nothing_fits_it_exits_with_1_and_names_the_nearest(run: Any, judged: None) -> None:
    code, out, err = run("recommend", "tiny", "--max-latency", "10us", "--margin", "0.001")
    assert code == 1
    assert "do not fit:" in out
    assert err.startswith("slimq: no variant of tiny fits; the nearest is other: ")
    assert "15 µs, exceeds 10 µs by 5.00 µs (50.0%)" in err
    assert err.count("\n") == 1


def test_without_reports_it_says_how_to_get_them(run: Any) -> None:
    code, out, err = run("recommend", "tiny")
    assert code == 1
    assert "other: not evaluated: run slimq evaluate tiny" in out
    assert err == (
        "slimq: no variant of tiny fits: none has the required evidence; run slimq evaluate tiny\n"
    )


def test_json_holds_the_choice_and_the_criteria(run: Any, judged: None) -> None:
    code, out, _ = run("recommend", "tiny", "--json", "--max-bytes", "1MB")
    values = json.loads(out)
    assert code == 0
    assert values["goal"] == "latency"
    assert values["criteria"]["max_bytes"] == 1_000_000
    assert values["choice"]["variant"] == "other"
    assert values["choice"]["low"] == pytest.approx(-1 / 90)
    assert [one["variant"] for one in values["runners_up"]] == ["fp32"]
    code, out, _ = run("recommend", "tiny", "--json", "--max-bytes", "1")
    assert code == 1
    assert json.loads(out)["choice"] is None
    assert {one["variant"] for one in json.loads(out)["rejected"]} == {"fp32", "other"}


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--max-latency", "fast", "a positive duration such as 0.2ms"),
        ("--max-bytes", "20xB", "a positive size such as 20kB"),
    ],
)
def test_a_malformed_limit_exits_with_2(run: Any, option: str, value: str, expected: str) -> None:
    code, out, err = run("recommend", "tiny", option, value)
    assert (code, out) == (2, "")
    assert err.startswith(f"slimq: {option}: expected {expected}")
    assert err.endswith(f"received {value!r}\n")


def test_an_unknown_policy_exits_with_2(run: Any) -> None:
    code, _, err = run("recommend", "tinny")
    assert code == 2
    assert "did you mean 'tiny'" in err


@pytest.mark.parametrize("policy", ["cartpole", "pong"])
def test_for_each_shipped_policy_the_choice_is_the_smallest_that_is_proven(
    slimq: Any, policy: str
) -> None:
    from slimq.evaluation.comparison import compare_variants
    from slimq.evaluation.evidence import conditions_are_known

    root = Path(__file__).parents[2] / "policies"
    done = slimq("recommend", policy, "--policies", root, "--json")
    assert done.returncode == 0, done.stderr
    comparison = compare_variants(Repository(root), policy)
    fitting = [row for row in comparison.rows if row.difference and row.difference.low >= -0.02]
    if conditions_are_known(comparison):
        fitting = [row for row in fitting if row.robustness and row.robustness.robust]
    assert json.loads(done.stdout)["choice"]["bytes"] == min(row.bytes for row in fitting)


CONDITIONS = ("noise=0.01", "bias=0.01", "held=0.1", "sticky=0.25", "delayed=1")


@pytest.fixture
def disturbed(attach: Any) -> None:
    """`other` keeps everything but noise; under delay, the full policy itself has lost most."""
    own = dict.fromkeys(CONDITIONS, [100.0, 120.0] * 10) | {"delayed=1": [40.0, 41.0] * 10}
    attach("fp32", [100.0, 120.0] * 10, p50=30.0, conditions=own)
    worse = {**own, "noise=0.01": [70.0, 90.0] * 10, "delayed=1": [20.0, 21.0] * 10}
    attach("other", [100.0, 120.0] * 10, p50=15.0, conditions=worse)


def test_robustness_is_required_once_the_full_variant_has_its_conditions(
    run: Any, disturbed: None
) -> None:
    code, out, _ = run("recommend", "tiny", "--for", "latency")
    assert code == 0
    assert out.startswith(
        "fp32: the fastest variant of tiny that is non-inferior undisturbed at 2.00% and under "
        "each standard condition at 5.00%\n"
    )
    assert "robust, lowest bound +0.00% under noise=0.01" in out
    assert (
        "  other: under noise=0.01, the lower bound of -33.33% is 28.33% below the "
        "margin of -5.00%\n"
    ) in out
    assert "under delayed" not in out
    assert "nothing is known" not in out


def test_without_robustness_the_conditions_are_figures_only(run: Any, disturbed: None) -> None:
    code, out, _ = run("recommend", "tiny", "--for", "latency", "--no-robust")
    assert code == 0
    assert out.startswith("other: the fastest variant of tiny that is non-inferior undisturbed at")
    assert "under each" not in out
    assert "not robust, lowest bound -33.33% under noise=0.01" in out


def test_robustness_that_is_asked_for_but_not_known_rejects(run: Any, judged: None) -> None:
    code, out, err = run("recommend", "tiny", "--robust")
    assert code == 1
    assert (
        "other: not compared under noise=0.01, bias=0.01, held=0.1, sticky=0.25, delayed=1: run "
        "slimq evaluate tiny --conditions"
    ) in out
    assert "none has the required evidence" in err


def test_a_variant_that_lacks_a_condition_is_rejected_by_its_name(run: Any, attach: Any) -> None:
    returns = [100.0, 120.0] * 10
    attach("fp32", returns, p50=30.0, conditions=dict.fromkeys(CONDITIONS, returns))
    attach("other", returns, p50=15.0, conditions=dict.fromkeys(CONDITIONS[1:], returns))
    code, out, _ = run("recommend", "tiny", "--for", "latency", "--json")
    found = json.loads(out)
    assert (code, found["choice"]["variant"], found["robust"]) == (0, "fp32", True)
    (rejected,) = found["rejected"]
    assert rejected["reasons"] == [
        "not compared under noise=0.01: run slimq evaluate tiny --conditions"
    ]
    assert rejected["excess"] is None


@pytest.mark.parametrize("asked", [(), ("--robust",)])
def test_where_no_condition_decides_the_choice_does_not_claim_more_than_undisturbed_play(
    run: Any, attach: Any, asked: tuple[str, ...]
) -> None:
    for variant, p50 in (("fp32", 30.0), ("other", 15.0)):
        lost = dict.fromkeys(CONDITIONS, [40.0, 41.0] * 10)
        attach(variant, [100.0, 120.0] * 10, p50=p50, conditions=lost)
    code, out, _ = run("recommend", "tiny", "--for", "latency", *asked)
    first, *rest = out.splitlines()
    assert code == 0
    assert first == "other: the fastest variant of tiny that is non-inferior undisturbed at 2.00%"
    assert (
        "  nothing is known beyond undisturbed play: no standard condition decides, as fp32 itself "
        "loses more than 50% under each"
    ) in rest


def test_conditions_of_a_few_episodes_are_not_known(run: Any, attach: Any) -> None:
    returns = [100.0, 120.0] * 10
    for variant, p50 in (("fp32", 30.0), ("other", 15.0)):
        attach(variant, returns, p50=p50, conditions=dict.fromkeys(CONDITIONS, returns[:3]))
    code, out, _ = run("recommend", "tiny", "--for", "latency")
    assert code == 0
    assert "under each standard condition" not in out
    assert "nothing is known beyond undisturbed play: run slimq evaluate tiny --conditions" in out
    code, out, _ = run("recommend", "tiny", "--robust")
    assert code == 1
    assert "other: not compared under noise=0.01, bias=0.01, held=0.1" in out
