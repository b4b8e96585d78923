"""Evaluation reports with returns of one's choice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from slimq.core.conditions.catalogue import Condition
from slimq.core.environment import EnvironmentSpec
from slimq.core.manifest import VariantManifest
from slimq.core.report import (
    ConditionReport,
    EvaluationProtocol,
    EvaluationReport,
    Fidelity,
    Interval,
    LatencyMeasurement,
    LatencyReport,
)


def make_latency(p50: float, run_id: str = "run") -> LatencyReport:
    """Latencies of `fp32` and `other` that are multiples of a median."""
    return LatencyReport(
        run_id=run_id,
        processor="test processor",
        threads=1,
        processes=1,
        onnxruntime="0",
        variants=["fp32", "other"],
        measurements=[
            LatencyMeasurement(
                mode=mode,
                batch=batch,
                iterations=10,
                p50_us=p50 * batch * (2 if mode == "interleaved" else 1),
                processes_p50_us=[p50 * batch * (2 if mode == "interleaved" else 1)],
                p95_us=p50 * batch * 3,
                p99_us=p50 * batch * 4,
                processor_us=p50 * batch,
            )
            for mode in ("interleaved", "alone")
            for batch in (1, 8, 32)
        ],
    )


def make_report(
    variant: str,
    returns: Sequence[float],
    *,
    policy: str = "tiny",
    model_sha256: str = "a" * 64,
    baseline_sha256: str = "a" * 64,
    epsilon: float = 0.01,
    p50: float | None = None,
    run_id: str = "run",
    size: int = 1000,
    versions: dict[str, str] | None = None,
    conditions: Mapping[str, Sequence[float]] | None = None,
) -> EvaluationReport:
    """A report of episodes with these returns; the intervals are the mean ± 1.

    Returns under conditions are given by their labels, such as `noise=0.01`.
    """
    first = 3_000_000
    seeds = list(range(first, first + len(returns)))
    mean = sum(returns) / len(returns)
    return EvaluationReport(
        policy=policy,
        variant=variant,
        model_sha256=model_sha256,
        baseline_variant="fp32",
        baseline_sha256=baseline_sha256,
        protocol=EvaluationProtocol(
            environment=EnvironmentSpec(id="CartPole-v1", max_episode_steps=500),
            epsilon=epsilon,
            episodes=len(returns),
            seed_range="held-out",
            first_seed=first,
            resamples=2_000,
            fidelity_states=100,
            fidelity_episodes=4,
        ),
        seeds=seeds,
        returns=list(returns),
        lengths=[int(value) for value in returns],
        trajectories=[hashlib.sha256(str(seed).encode()).hexdigest() for seed in seeds],
        distinct_trajectories=len(seeds),
        mean=mean,
        interval=Interval(low=mean - 1, high=mean + 1),
        iqm=mean,
        iqm_interval=Interval(low=mean - 1, high=mean + 1),
        conditions=tuple(make_condition(label, own) for label, own in (conditions or {}).items()),
        fidelity=Fidelity(
            states=100,
            agreement=0.97,
            near_ties=1,
            agreement_without_ties=0.98,
            regret=0.001,
            q_error_mean=0.01,
            q_error_max=0.1,
        ),
        bytes=size,
        latency=None if p50 is None else make_latency(p50, run_id),
        versions=versions or {"slimq": "0"},
    )


def make_condition(label: str, returns: Sequence[float]) -> ConditionReport:
    """A report of play under a condition; the interval is the mean ± 1."""
    name, _, strength = label.partition("=")
    mean = sum(returns) / len(returns)
    return ConditionReport(
        condition=Condition(name=name, strength=float(strength)),
        spread=[1.0, 1.0, 1.0, 1.0],
        returns=list(returns),
        distinct_trajectories=1,
        mean=mean,
        interval=Interval(low=mean - 1, high=mean + 1),
    )


def make_report_of(manifest: VariantManifest, returns: Sequence[float]) -> EvaluationReport:
    """A report of a variant that is its own baseline."""
    return make_report(
        manifest.name,
        returns,
        policy=manifest.policy,
        model_sha256=manifest.model.sha256,
        baseline_sha256=manifest.model.sha256,
        size=manifest.model.bytes,
    )
