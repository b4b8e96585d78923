"""The front matter of a card: what a model hub reads of it.

A leaderboard of deep reinforcement learning takes the environment from the tags, and the return
from the first result of `model-index`, whose value is `mean +/- standard deviation`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from slimq.core.environment import EnvironmentSpec
from slimq.core.manifest import PolicyManifest
from slimq.core.report import EvaluationReport

LIBRARY = "slimq"
FIRST_LINES = f'---\nlibrary_name: "{LIBRARY}"\n'
"""The beginning of every card that slimq writes."""
TASK = "reinforcement-learning"


def front_matter(
    manifest: PolicyManifest, report: EvaluationReport | None, license_: str | None
) -> str:
    """The front matter, with its rules and a line break at the end.

    Args:
        manifest: the policy's.
        report: of the default variant; None if there is none.
        license_: identifier of the policy's licence, such as `apache-2.0`; None if unknown.
    """
    values: dict[str, Any] = {"library_name": LIBRARY}
    if license_ is not None:
        values["license"] = license_
    environment = manifest.environment
    named = [] if environment is None else [environment_name(environment)]
    values["pipeline_tag"] = TASK
    values["tags"] = [
        *named,
        "deep-reinforcement-learning",
        TASK,
        algorithm(manifest).lower(),
        "onnx",
        "model-compression",
    ]
    if named and report is not None and report.played is not None:
        values["model-index"] = [{"name": manifest.name, "results": [_result(named[0], report)]}]
    return "---\n" + "\n".join(_lines(values)) + "\n---\n"


def environment_name(environment: EnvironmentSpec) -> str:
    """The id of an environment without the module or the folder that it comes from."""
    first, colon, name = environment.id.partition(":")
    if not colon:
        return environment.id
    return f"{PurePath(first).stem}:{name}" if first.endswith(".py") else name


def algorithm(manifest: PolicyManifest) -> str:
    """The algorithm that trained the policy."""
    return "DQN" if manifest.imported is None else manifest.imported.algorithm


def mean_and_deviation(returns: list[float]) -> str:
    """Mean and standard deviation as leaderboards read them, such as `20.95 +/- 0.22`."""
    mean = sum(returns) / len(returns)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in returns) / len(returns))
    return f"{mean:.2f} +/- {deviation:.2f}"


def _result(environment: str, report: EvaluationReport) -> dict[str, Any]:
    return {
        "task": {"type": TASK, "name": TASK},
        "dataset": {"name": environment, "type": environment},
        "metrics": [
            {
                "type": "mean_reward",
                "value": mean_and_deviation(list(report.returns or ())),
                "name": "mean_reward",
                "verified": False,
            }
        ],
    }


def _lines(value: Any, indent: str = "") -> Iterator[str]:
    """YAML of dictionaries, lists and JSON's scalars, which are valid YAML as JSON writes them."""
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, dict | list):
                yield f"{indent}{key}:"
                yield from _lines(item, indent + "  ")
            else:
                yield f"{indent}{key}: {json.dumps(item, ensure_ascii=False)}"
    else:
        for item in value:
            if isinstance(item, dict | list):
                first, *rest = _lines(item, indent + "  ")
                yield f"{indent}- {first.lstrip()}"
                yield from rest
            else:
                yield f"{indent}- {json.dumps(item, ensure_ascii=False)}"
