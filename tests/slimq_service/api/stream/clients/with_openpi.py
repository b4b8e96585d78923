"""Asks a stream with openpi's client, in an environment of its own: URL OBSERVATIONS [KEY]."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.runtime.agents.policy_agent import PolicyAgent
from openpi_client.websocket_client_policy import WebsocketClientPolicy


def plain(value: Any) -> Any:
    """A value in JSON; an array with its dtype and shape."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return {"dtype": str(value.dtype), "shape": value.shape, "values": value.tolist()}
    return value


def attempt(policy: WebsocketClientPolicy, observation: Any) -> Any:
    try:
        return plain(policy.infer(observation))
    except RuntimeError as error:
        return str(error)


def ask(url: str, observations: Any, key: str | None) -> dict[str, Any]:
    policy = WebsocketClientPolicy(host=url, api_key=key)
    found = {
        "metadata": policy.get_server_metadata(),
        "answers": [plain(policy.infer({"observation": one})) for one in observations],
        "refused": attempt(policy, {"observation": observations[0].astype(str)}),
        "after": plain(policy.infer({"observation": observations[0], "reset": np.bool_(True)})),
    }
    agent = PolicyAgent(ActionChunkBroker(policy, action_horizon=1))
    agent.reset()
    first = {"observation": observations[0], "reset": True}
    found["agent"] = [plain(agent.get_action(first)) for _ in range(2)]
    return found


if __name__ == "__main__":
    url, path, *key = sys.argv[1:]
    sys.stdout.write(json.dumps(ask(url, np.load(path), *(key or [None]))))
