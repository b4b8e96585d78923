"""Which trials of the ladder are published, and what is said where none can be."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict
from typing import Any

import optuna
import pytest
from optuna.trial import create_trial

from slimq_compression.search.ladder import EFFORTS, PROBE_EFFORT, Rung
from slimq_compression.search.run import Found
from slimq_compression.search.rungs import DISTRIBUTIONS
from slimq_compression.search.shrink import (
    ATTEMPTS,
    FURTHER,
    Limits,
    _first_accepted,
    acceptable,
    explain_failure,
    explain_time,
)
from slimq_compression.search.winners import Winner


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(directions=["minimize"] * 3)


def add(study: optuna.Study, rung: Rung, size: int, latency: float = 10.0, **known: Any) -> None:
    figures = {"candidate": rung.describe(), "latency_ratio": 1.0, "agreement": 1.0, "score": 1.0}
    study.add_trial(
        create_trial(
            values=[float(size), latency, 1.0 - known.get("score", 1.0)],
            params=asdict(rung),
            distributions=dict(DISTRIBUTIONS),
            user_attrs={**figures, "seconds": 1.0, **known},
        )
    )


def found(size: int) -> Found:
    return Found(size, str(size), size, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, {}, acceptable=True)


def tried(sizes: list[int], accepted: int) -> tuple[list[int], Found | None]:
    """The sizes that are tried, where one of at least `accepted` bytes is published."""

    def publish(one: Found) -> Winner:
        outcome: Any = object() if one.bytes >= accepted else None
        return Winner(one, 0, None, outcome, "" if outcome else "refused")

    def collect() -> Generator[Winner, None, Found | None]:
        return (yield from _first_accepted([found(s) for s in sizes], _size, publish))

    run, seen = collect(), []
    while True:
        try:
            seen.append(next(run).found.bytes)
        except StopIteration as end:
            return seen, end.value


def _size(one: Found) -> float:
    return float(one.bytes)


def test_the_smallest_that_the_gate_accepts_ends_the_attempts() -> None:
    seen, chosen = tried([400, 100, 200, 300], accepted=200)
    assert seen == [100, 200]
    assert chosen is not None
    assert chosen.bytes == 200


def test_near_copies_of_what_was_refused_are_left_out() -> None:
    seen, _ = tried([100, 101, 110, 119, 120], accepted=120)
    assert seen == [100, 120]
    assert 120 >= FURTHER * 100 > 119


def test_attempts_end() -> None:
    sizes = [int(100 * 2**n) for n in range(ATTEMPTS + 5)]
    seen, chosen = tried(sizes, accepted=10**9)
    assert len(seen) == ATTEMPTS
    assert chosen is None


def test_only_what_lost_no_more_than_the_margin_is_acceptable(study: optuna.Study) -> None:
    add(study, Rung("fitted", 0.01, effort=1.0), 500, passed=True)
    add(study, Rung("fitted", 0.001, effort=1.0), 90, passed=False)
    add(study, Rung("whole", form="int8"), 5_000, passed=True)
    assert [one.bytes for one in acceptable(study)] == [500, 5_000]


def test_limits_out_of_reach_name_the_smallest_and_the_fastest(study: optuna.Study) -> None:
    add(study, Rung("fitted", 0.01, effort=1.0), 500, latency=8.0, passed=True)
    add(study, Rung("whole", form="int8"), 5_000, latency=4.0, passed=True)
    said = explain_failure(study, 0.02, Limits(max_bytes=100))
    assert said == (
        "no variant that loses at most 2.00% meets the limits; the smallest, fitted 1/100, fp32, "
        "has 500 bytes"
    )
    said = explain_failure(study, 0.02, Limits(max_latency_us=1.0))
    assert said.endswith("the fastest, whole, int8, takes 4.0 µs")
    said = explain_failure(study, 0.02, Limits())
    assert said.startswith("the gate refused the candidates")
    assert said.endswith("more --minutes may find one, or a larger --max-loss allow one")


def test_without_any_that_is_good_enough_the_best_is_named(study: optuna.Study) -> None:
    assert explain_failure(study, 0.02, Limits()).startswith("no trial could be made")
    add(study, Rung("whole", form="int8"), 5_000, score=0.4, passed=False)
    add(study, Rung("fitted", 0.01, effort=1.0), 500, score=0.7)
    said = explain_failure(study, 0.02, Limits())
    assert said.startswith("no variant loses at most 2.00%; the nearest, fitted 1/100, fp32, has a")
    assert "score of 0.700" in said


def test_conditions_under_which_all_fall_are_named(study: optuna.Study) -> None:
    for size, label in ((400, "delayed=1"), (500, "noise=0.01"), (600, "delayed=1")):
        rung = Rung("fitted", size / 10_000, effort=1.0)
        add(study, rung, size, passed=False, low=0.0, lost=label)
    assert explain_failure(study, 0.02, Limits()) == (
        "no variant that loses at most 2.00% undisturbed is robust; they lose too much under "
        "delayed=1 (2), noise=0.01 (1); --no-robust judges by undisturbed play only"
    )


def test_a_time_too_short_for_trainings_says_how_long_one_takes(study: optuna.Study) -> None:
    assert explain_time(study) == (
        "the time was too short for anything but post-training quantization"
    )
    add(study, Rung("fitted", 0.06, effort=PROBE_EFFORT), 500, seconds=12.0)
    said = explain_time(study)
    assert said is not None
    assert said.endswith(
        f"a short training run takes about {12 / PROBE_EFFORT * EFFORTS[0] / 60:.1f} minutes here"
    )
    add(study, Rung("fitted", 0.06, effort=EFFORTS[0]), 500)
    assert explain_time(study) is None
