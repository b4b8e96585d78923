from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from slimq.core.errors import InvalidInputError, NotFoundError
from slimq.loadtest.plan import (
    ERROR_RATE,
    Plan,
    Subject,
    blocks,
    choose_baseline,
    name_subjects,
    needed_rounds,
)

KNOWN = ["fp32", "int8", "tiny"]


def make(*names: str, **options: Any) -> Plan:
    subjects = name_subjects(names or KNOWN, KNOWN)
    return Plan(subjects=subjects, baseline=subjects[0].label, **options)


def test_a_variant_that_is_named_again_gets_a_label_of_its_own() -> None:
    subjects = name_subjects(["fp32", "int8", "fp32"], KNOWN)
    assert subjects == (Subject("fp32", "fp32"), Subject("int8", "int8"), Subject("fp32#2", "fp32"))


def test_an_unknown_variant_is_refused_with_the_near_one() -> None:
    with pytest.raises(NotFoundError, match=r"unknown variant 'int9', did you mean 'int8'\?"):
        name_subjects(["int9"], KNOWN)


def test_no_variant_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="--variants: expected comma-separated names"):
        name_subjects([], KNOWN)


def test_the_baseline_is_what_is_asked_for_or_the_policys_or_the_first() -> None:
    subjects = name_subjects(["int8", "fp32"], KNOWN)
    assert choose_baseline(subjects, None, "fp32") == "fp32"
    assert choose_baseline(subjects, None, "tiny") == "int8"
    assert choose_baseline(subjects, "int8", "fp32") == "int8"
    with pytest.raises(NotFoundError, match="unknown baseline 'tiny'; available: fp32, int8"):
        choose_baseline(subjects, "tiny", "fp32")


def test_every_round_has_each_variant_once_in_an_order_of_its_own() -> None:
    plan = make(rounds=60)
    order = [(number, subject.label) for number, subject in blocks(plan)]
    rounds = [tuple(label for n, label in order if n == number) for number in range(60)]
    assert all(sorted(labels) == KNOWN for labels in rounds)
    firsts = Counter(labels[0] for labels in rounds)
    assert len(set(rounds)) == 6
    assert min(firsts.values()) >= 10
    assert order == [(number, subject.label) for number, subject in blocks(plan)]
    again = [(n, s.label) for n, s in blocks(make(rounds=60, seed=1))]
    assert order != again


def test_alone_each_variant_has_all_its_rounds_on_end() -> None:
    labels = [subject.label for _, subject in blocks(make(rounds=3, order="alone"))]
    assert labels == ["fp32"] * 3 + ["int8"] * 3 + ["tiny"] * 3


def test_comparisons_count_every_statistic_of_every_other_variant() -> None:
    assert make(modes=("closed",)).comparisons == 2 * 5
    assert make().comparisons == 2 * 9
    assert make(modes=("steps",)).comparisons == 0
    assert make(order="alone").comparisons == 0
    assert make("fp32").comparisons == 0


def test_the_rounds_that_are_needed_are_those_that_could_tell_anything() -> None:
    for comparisons in (1, 5, 18, 100):
        least = needed_rounds(comparisons)
        assert 2 * 0.5**least <= ERROR_RATE / comparisons < 2 * 0.5 ** (least - 1)


def test_an_open_loop_in_which_hardly_a_request_would_count_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"--seconds: .* at least 3\.704 at --rate 3, "):
        make(rate=3.0).check()
    make(rate=3.0, seconds=3.8).check()
    make(rate=3.0, modes=("closed",)).check()
    make(rate=23.0).check()
    assert make().open_seconds(2.0) == pytest.approx(5.556)
    assert make().open_seconds(1000.0) == 0.5


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="--rounds: expected at least 12 for 18 compar"):
        make(rounds=11).check()
    make(rounds=12).check()
    make(rounds=1, order="alone").check()
