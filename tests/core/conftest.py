"""Fixtures of core's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reports import make_report_of
from slimq.core.manifest import VariantManifest
from slimq.core.publish import Publisher
from slimq.core.report import EvaluationReport
from slimq.core.repository import Repository


@pytest.fixture
def repository(tiny_repository: Path) -> Repository:
    return Repository(tiny_repository)


@pytest.fixture
def publisher(repository: Repository) -> Publisher:
    return Publisher(repository)


@pytest.fixture
def report_of() -> Callable[..., EvaluationReport]:
    """`report_of(variant_manifest, mean=…)`: a report of two episodes."""

    def build(variant: VariantManifest, mean: float = 9.5) -> EvaluationReport:
        return make_report_of(variant, [mean - 0.5, mean + 0.5])

    return build
