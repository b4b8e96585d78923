"""Over a stream of single frames Pong is played as over HTTP with whole observations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.sync.client import connect

from slimq.core.repository import Repository
from slimq.core.seeds import HELD_OUT
from slimq.environments.vector import VectorEnvironment

POLICIES = Path(__file__).parents[2] / "policies"
TIE = 1e-4
RAW = {"content-type": "application/octet-stream"}


def play(url: str, variant: str, episodes: int, most: int) -> int:
    """Plays with the actions of act and compares the stream's, step by step; the steps."""
    manifest = Repository(POLICIES).policy("pong")
    layout = manifest.observation
    assert layout.stack is not None
    path = f"/v1/policies/pong/variants/{variant}"
    environment = VectorEnvironment(manifest.environment, 1, threads=1)
    everybody = np.ones(1, np.bool_)
    steps = 0
    address = url.replace("http://", "ws://") + path + "/stream"
    with httpx.Client(base_url=url) as client, connect(address, compression=None) as stream:
        for episode, seed in enumerate(HELD_OUT.seeds(episodes)):
            if episode:
                stream.send('{"reset": true}')
                assert "sha256" in json.loads(stream.recv())
            observations = environment.restart(everybody, [seed])
            for step in range(most):
                whole = observations.tobytes()
                answer = client.post(path + "/act", content=whole, headers=RAW).json()
                newest: Any = np.take(observations[0], -1, axis=layout.stack.axis)
                stream.send(newest.tobytes())
                compare(answer, json.loads(stream.recv()), f"{seed}, step {step}")
                result = environment.step(np.array(answer["actions"]))
                observations, steps = result.observations, steps + 1
                if result.ended[0]:
                    break
    environment.close()
    return steps


def compare(act: Any, streamed: Any, where: str) -> None:
    """The same action of the same model, but for a tie."""
    assert streamed["sha256"] == act["sha256"]
    (action,), (expected,) = act["actions"], act["q_values"]
    found = streamed["q_values"]
    np.testing.assert_allclose(found, expected, atol=TIE, rtol=0, err_msg=where)
    if streamed["action"] != action:
        assert expected[action] - expected[streamed["action"]] < TIE, where


@pytest.mark.parametrize("variant", ["fastest", "int8"])
def test_frame_by_frame_the_actions_are_those_of_whole_observations(url: str, variant: str) -> None:
    assert play(url, variant, episodes=3, most=120) == 360


@pytest.mark.slow
def test_whole_games_too(url: str) -> None:
    assert play(url, "fastest", episodes=2, most=27_000) > 2000
