"""The description of a policy in a Stable-Baselines3 zip: algorithm, spaces, keyword arguments.

`data` is JSON. What JSON cannot hold is in it as a base64 pickle, which is read as data.
"""

from __future__ import annotations

import base64
import binascii
import json
import zipfile
from typing import Any

from torch import Tensor

from slimq.importing.files.pickles import Global, PickleError, read_pickle
from slimq.importing.files.reading import read_member
from slimq.importing.source import refuse
from slimq.networks.specification import Activation

ACTIVATIONS: dict[str, Activation] = {
    "ReLU": "relu",
    "LeakyReLU": "leaky_relu",
    "ELU": "elu",
    "SiLU": "silu",
    "GELU": "gelu",
    "Tanh": "tanh",
}
EXTRACTORS = ("FlattenExtractor", "NatureCNN", "CombinedExtractor")
NETWORKS = {"q_net": "DQN", "quantile_net": "QR-DQN"}
"""Name of the network in the policy, and its algorithm."""


def read_data(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    """The attributes of the algorithm.

    Raises:
        InvalidInputError: they are missing, or not a JSON object.
    """
    try:
        data = json.loads(read_member(archive, "data", name))
    except (ValueError, RecursionError) as error:
        raise refuse(name, "JSON in 'data'", "something else") from error
    if not isinstance(data, dict):
        raise refuse(name, "an object in 'data'", f"a {type(data).__name__}")
    return data


def unpickled(data: dict[str, Any], key: str, name: str) -> Any:
    """A value of `data` that is stored as a base64 pickle, as data; plain values as they are.

    Raises:
        InvalidInputError: it is not a pickle.
    """
    value = data.get(key)
    if not isinstance(value, dict) or ":serialized:" not in value:
        return value
    try:
        return read_pickle(base64.b64decode(value[":serialized:"], validate=True))
    except (PickleError, binascii.Error, TypeError, ValueError) as error:
        received = f"a pickle in {key!r} that {str(error).splitlines()[0][:120]}"
        raise refuse(name, "a file of Stable-Baselines3", received) from error


def network_of(data: dict[str, Any], weights: dict[str, Tensor], name: str) -> str:
    """`q_net` or `quantile_net`.

    Raises:
        InvalidInputError: the file is of another algorithm, which is named.
    """
    for network in NETWORKS:
        if any(key.startswith(f"{network}.{network}.") for key in weights):
            return network
    expected = "a DQN or QR-DQN policy, which has Q-values"
    raise refuse(name, expected, f"a policy of {_algorithm_of(data, name)}")


def _algorithm_of(data: dict[str, Any], name: str) -> str:
    """The algorithm of a file that has no Q-network of discrete actions."""
    policy = unpickled(data, "policy_class", name)
    module, _ = policy if isinstance(policy, Global) else ("", "")
    for part in module.split("."):
        if part in ("sac", "td3", "tqc", "ppo", "a2c", "trpo", "ddpg", "crossq", "ppo_mask"):
            return part.upper()
    if "recurrent" in module:
        return "recurrent PPO"
    if "clip_range" in data:
        return "PPO"
    if "cg_max_steps" in data:
        return "TRPO"
    if "gae_lambda" in data:
        return "A2C"
    return str(policy) if isinstance(policy, Global) else "an unknown algorithm"


def keywords_of(data: dict[str, Any], name: str) -> dict[str, Any]:
    """The keyword arguments of the policy.

    Raises:
        InvalidInputError: the features extractor is a class of the user's own.
    """
    keywords = unpickled(data, "policy_kwargs", name)
    keywords = keywords if isinstance(keywords, dict) else {}
    extractor = keywords.get("features_extractor_class")
    known = isinstance(extractor, Global) and (
        extractor.module.startswith("stable_baselines3.") and extractor.name in EXTRACTORS
    )
    if extractor is not None and not known:
        shown = extractor if isinstance(extractor, Global) else "a custom class"
        expected = f"one of the features extractors {', '.join(EXTRACTORS)}"
        remedy = "export the policy to ONNX and import that"
        raise refuse(name, expected, str(shown), remedy)
    return keywords


def activation_of(keywords: dict[str, Any], name: str) -> Activation:
    """The nonlinearity of the dense layers; ReLU unless the keyword arguments say otherwise.

    Raises:
        InvalidInputError: it is one that slimq lacks.
    """
    found = keywords.get("activation_fn")
    if found is None:
        return "relu"
    if (
        isinstance(found, Global)
        and found.name in ACTIVATIONS
        and found.module.startswith("torch.")
    ):
        return ACTIVATIONS[found.name]
    shown = str(found) if isinstance(found, Global) else "a custom function"
    remedy = "give --activation if it is one of them, or import the policy as ONNX"
    raise refuse(name, f"an activation of {', '.join(ACTIVATIONS)}", shown, remedy)
