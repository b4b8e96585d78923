"""Plans of a load test and the samples that a recording would hold."""

from __future__ import annotations

from typing import Any

from slimq.loadtest.plan import Plan, name_subjects
from slimq.loadtest.recording import Sample

KNOWN = ["fp32", "int8", "tiny"]


def make_sample(label: str, number: int = 0, **values: Any) -> Sample:
    plain: dict[str, Any] = {
        "mode": "closed",
        "number": number,
        "label": label,
        "rate": None,
        "seconds": 1.0,
        "throughput": 1000.0,
        "pace": None,
        "sent": 1000,
        "answered": 1000,
        "failed": {},
        "dropped": 0,
        "mean_us": 1.0,
        "p10_us": 1000.0,
        "p50_us": 2000.0,
        "p99_us": 3000.0,
        "processor_us": 500.0,
        "late_us": None,
        "generator": 0.1,
    }
    return Sample(**{**plain, **values})


def make_plan(names: list[str], **options: Any) -> Plan:
    subjects = name_subjects(names, KNOWN)
    return Plan(subjects=subjects, baseline=subjects[0].label, **options)
