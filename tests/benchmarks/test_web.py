"""The time to a page's first action is measured, and what is wrong is said in a line."""

from __future__ import annotations

import pytest

from places import POLICIES
from slimq.core.repository import Repository
from web import main, measure
from web_exports import needs_browser


@pytest.mark.slow
@needs_browser
def test_a_page_is_timed() -> None:
    report, times = measure(Repository(POLICIES), "cartpole", "micro", 1)
    assert (report.policy, report.variant) == ("cartpole", "micro")
    assert len(times) == 1
    assert times[0] > 10


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(SystemExit, match=r"web\.py: unknown policy 'non'"):
        main(["--policy", "non"])
