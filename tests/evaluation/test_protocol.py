from __future__ import annotations

import hashlib

import pytest

from builders import make_variant_manifest
from slimq.core.environment import EnvironmentSpec
from slimq.core.manifest import FileEntry
from slimq.core.report import MAX_TRAJECTORIES
from slimq.environments.rollout import Episode
from slimq.evaluation.protocol import EvaluationSettings, make_protocol, summarize


@pytest.mark.parametrize("count", [MAX_TRAJECTORIES - 1, MAX_TRAJECTORIES + 1])
def test_the_first_trajectories_are_listed(count: int) -> None:
    settings = EvaluationSettings(episodes=count, resamples=10)
    protocol = make_protocol(EnvironmentSpec(id="CartPole-v1"), settings)
    digests = [hashlib.sha256(bytes([seed % 7])).hexdigest() for seed in protocol.seeds]
    episodes = [
        Episode(seed, 1.0, 1, digest, terminated=True)
        for seed, digest in zip(protocol.seeds, digests, strict=True)
    ]
    model = FileEntry(path="model-0123456789ab.onnx", bytes=1, sha256="0" * 64)
    variant = make_variant_manifest("tiny", "fp32", model)
    report = summarize(variant, variant, protocol, episodes, None)
    assert report.trajectories == digests[:MAX_TRAJECTORIES]
    assert report.distinct_trajectories == 7
