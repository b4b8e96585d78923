"""Reports with returns of one's choice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import reports
from slimq.core.report import EvaluationReport


@pytest.fixture
def make_report() -> Callable[..., EvaluationReport]:
    return reports.make_report
