"""Fixtures of core's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from slimq.core.environment import EnvironmentSpec
from slimq.core.manifest import VariantManifest
from slimq.core.publish import Publisher
from slimq.core.report import EvaluationProtocol, EvaluationReport, Interval
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
        return EvaluationReport(
            policy=variant.policy,
            variant=variant.name,
            model_sha256=variant.model.sha256,
            baseline_variant="fp32",
            baseline_sha256=variant.model.sha256,
            protocol=EvaluationProtocol(
                environment=EnvironmentSpec(id="CartPole-v1"),
                epsilon=0.01,
                episodes=2,
                seed_range="held-out",
                first_seed=3_000_000,
                resamples=10,
                fidelity_states=1,
                fidelity_episodes=1,
            ),
            seeds=[3_000_000, 3_000_001],
            returns=[mean - 0.5, mean + 0.5],
            lengths=[9, 10],
            trajectories=["0" * 64, "1" * 64],
            distinct_trajectories=2,
            mean=mean,
            interval=Interval(low=mean - 0.5, high=mean + 0.5),
            iqm=mean,
            iqm_interval=Interval(low=mean - 0.5, high=mean + 0.5),
            fidelity=None,
            bytes=variant.model.bytes,
            versions={"slimq": "0"},
        )

    return build
