"""Policies that were fetched from a real service act as the service does, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from places import POLICIES
from running import serve
from slimq.core.client import LocalPolicy, SlimqClient
from slimq.core.seeds import HELD_OUT
from slimq.environments.vector import VectorEnvironment

TIE = 1e-5


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve(POLICIES, 600) as (_, found):
        yield found


@pytest.mark.parametrize(
    ("policy", "variant", "steps"),
    [("cartpole", "micro", 200), ("frozenlake", "fitted-128-4bit", 100), ("pong", "tiny", 80)],
)
def test_a_fetched_policy_plays_as_the_service(
    url: str, tmp_path: Path, policy: str, variant: str, steps: int
) -> None:
    address = f"{url}/v1/policies/{policy}/variants/{variant}/model"
    local = LocalPolicy.fetch(address, cache=tmp_path, timeout=60)
    assert local.refresh() is False
    with SlimqClient(url, timeout=60) as client:
        manifest = client.policy(policy)
        assert local.description.observation == manifest.observation
        layout, seeds = manifest.observation, iter(HELD_OUT.seeds(steps))
        environment = VectorEnvironment(manifest.environment, 1, threads=1)
        everybody = np.ones(1, np.bool_)
        observations = environment.restart(everybody, [next(seeds)])
        for step in range(steps):
            answer = client.act(policy, observations, variant)
            assert answer.sha256 == local.description.hashes.stored
            found = local.q_values(observations)
            np.testing.assert_allclose(found, answer.q_values, atol=TIE, rtol=0)
            newest: Any = observations[0]
            if layout.stack is not None:
                newest = np.take(newest, -1, axis=layout.stack.axis)
            assert local.act(newest) == answer.actions[0], f"step {step}"
            result = environment.step(answer.actions - manifest.action_start)
            observations = result.observations
            if result.ended[0]:
                observations = environment.restart(everybody, [next(seeds)])
                local.reset()
        environment.close()
