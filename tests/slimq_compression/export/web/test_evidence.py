"""What the page says of how well a variant plays."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders import build_repository
from places import POLICIES
from slimq.core.repository import Repository
from slimq.evaluation.comparison import compare_variants
from slimq_compression.export.subject import read_subject
from slimq_compression.export.web.evidence import web_evidence

PLAYED = [("cartpole", "micro"), ("cartpole", "int8"), ("acrobot", "fitted-16-8bit")]


@pytest.mark.parametrize(("policy", "variant"), PLAYED)
def test_it_is_that_of_the_comparison(policy: str, variant: str) -> None:
    repository = Repository(POLICIES)
    comparison = compare_variants(repository, policy)
    row = next(row for row in comparison.rows if row.variant == variant)
    found = web_evidence(repository, read_subject(repository, policy, variant))
    assert found.baseline == comparison.baseline
    assert row.interval is not None
    assert (found.mean, found.low, found.high) == (row.mean, row.interval.low, row.interval.high)
    assert found.episodes == 100
    assert row.robustness is not None
    assert found.robust is row.robustness.robust
    assert [under.label for under in found.conditions] == [
        result.condition.label for result in row.robustness.results
    ]
    verdicts = {None: "open", True: "holds", False: "loses"}
    for under, result in zip(found.conditions, row.robustness.results, strict=True):
        assert under.verdict == verdicts[result.non_inferior]
        assert under.mean == result.mean


def test_none_is_said_to_be_none(tmp_path: Path) -> None:
    repository = Repository(build_repository(tmp_path / "policies"))
    found = web_evidence(repository, read_subject(repository, "tiny", "other"))
    assert found.text == "No evidence: this variant has not been evaluated."
    assert (found.mean, found.robust, found.non_inferior, found.conditions) == (
        None,
        None,
        None,
        (),
    )
    assert found.notes == ("not evaluated: run slimq evaluate tiny",)
