from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from serving_cases import CASES, Aim, Statistic
from serving_load import Load
from serving_table import (
    Measurement,
    Ratio,
    Result,
    describe,
    format_table,
    show_figures,
    show_ratios,
    summarize,
    verdict,
)

FAST = Measurement(Load(1000, 2.0, 0.001, 0.002), 0.5)
SLOW = Measurement(Load(500, 2.0, 0.002, 0.008), 0.5)


@pytest.mark.parametrize(
    ("statistic", "value"),
    [
        (Statistic.PROCESSOR, 0.5e-3),
        (Statistic.TIME, 2e-3),
        (Statistic.P50, 1e-3),
        (Statistic.P99, 2e-3),
        (Statistic.RATE, 500),
    ],
)
def test_the_statistics_of_a_measurement(statistic: Statistic, value: float) -> None:
    assert FAST.value(statistic) == pytest.approx(value)


def test_the_limit_is_what_an_echo_the_best_batch_and_the_generator_leave() -> None:
    echo = replace(FAST, processor=0.05, batch=200e-6, cores=2)
    ours = replace(SLOW, load=replace(SLOW.load, processor=0.025))
    case = replace(CASES[0], statistic=Statistic.SHARE)
    limit = 2 / (50e-6 + 200e-6 + 50e-6)
    assert echo.limit(50e-6) == pytest.approx(limit)
    assert Result(case, [ours], [echo]).ratios == [pytest.approx(250 / limit)]


def test_ratios_are_taken_round_by_round() -> None:
    case = replace(CASES[0], statistic=Statistic.P99)
    assert Result(case, [SLOW, FAST], [FAST, SLOW]).ratios == [4.0, 0.25]


@pytest.mark.parametrize(
    ("count", "skipped"),
    [(1, 0), (5, 0), (6, 0), (8, 0), (9, 1), (11, 1), (12, 2), (20, 5)],
)
def test_the_interval_leaves_out_what_the_signs_of_the_rounds_allow(
    count: int, skipped: int
) -> None:
    """As in tables of the sign test: 9 values allow the second smallest, 12 the third."""
    ratio = summarize([float(i) for i in reversed(range(count))])
    assert ratio == Ratio((count - 1) / 2, float(skipped), float(count - 1 - skipped))


@pytest.mark.parametrize(
    ("aim", "ratio", "expected"),
    [
        (Aim(1.3), Ratio(1.3, 1.1, 1.5), "holds"),
        (Aim(1.3), Ratio(1.31, 1.1, 1.5), "short"),
        (Aim(1.3, target=1.15), Ratio(1.15, 1.1, 1.2), "holds"),
        (Aim(1.3, target=1.15), Ratio(1.16, 1.1, 1.2), "holds, but not 1.15"),
        (Aim(2, at_least=True), Ratio(2.0, 1.5, 2.5), "holds"),
        (Aim(2, at_least=True), Ratio(1.9, 1.5, 2.5), "short"),
        (Aim(1.5, target=2, at_least=True), Ratio(1.9, 1.5, 2.5), "holds, but not 2"),
        (Aim(1.05, by_interval=True), Ratio(1.2, 1.05, 1.3), "holds"),
        (Aim(1.05, by_interval=True), Ratio(1.2, 1.06, 1.3), "short"),
    ],
)
def test_verdicts(aim: Aim, ratio: Ratio, expected: str) -> None:
    assert verdict(aim, ratio) == expected


def test_tables_are_markdown_with_straight_columns() -> None:
    assert format_table(["a", "bc"], [["def", "g"]]).splitlines() == [
        "| a   | bc |",
        "| --- | -- |",
        "| def | g  |",
    ]


def test_every_case_has_a_row() -> None:
    results = [Result(case, [FAST], [SLOW]) for case in CASES]
    rows = show_ratios(results).splitlines()[2:]
    assert [row.split()[1] for row in rows] == [case.name for case in CASES]
    assert len(show_figures(results).splitlines()) == 2 + 2 * len(results)


def test_cases_have_names_of_their_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


def test_the_documentation_has_every_case_with_its_aim() -> None:
    page = (Path(__file__).parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [case.name for case in CASES]
    for row, case in zip(rows, CASES, strict=True):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[2:] == [str(case.connections), case.statistic.value, describe(case.aim)]
