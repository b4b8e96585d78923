from __future__ import annotations

import json

import pytest

from serving_load import ERRORS, LoadError, find_wrk, parse

FIGURES = {"requests": 2000, "microseconds": 2_000_123, "p50": 950, "p99": 1800}


def output(**changed: int) -> str:
    figures = FIGURES | dict.fromkeys(ERRORS, 0) | changed
    return f"Running 2s test @ http://127.0.0.1:1/\n  1 threads\n{json.dumps(figures)}\n"


def test_figures_are_in_seconds() -> None:
    load = parse(output())
    assert (load.requests, load.p50, load.p99) == (2000, 950e-6, 1800e-6)
    assert load.seconds == pytest.approx(2.000123)


@pytest.mark.parametrize(("kind", "words"), ERRORS.items())
def test_a_failed_request_spoils_the_measurement(kind: str, words: str) -> None:
    with pytest.raises(LoadError, match=f"of 2000 requests failed: 3 {words}"):
        parse(output(**{kind: 3}))


def test_no_answer_at_all_is_no_measurement() -> None:
    with pytest.raises(LoadError, match="no request was answered"):
        parse(output(requests=0))


def test_output_without_figures_is_shown() -> None:
    with pytest.raises(LoadError, match="no figures: unable to connect"):
        parse("unable to connect to 127.0.0.1:1")


def test_without_wrk_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LoadError, match=r"wrk is not installed.*apt-get install wrk"):
        find_wrk()
