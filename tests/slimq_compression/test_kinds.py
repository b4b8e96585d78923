"""Every pass on networks of every kind: it does its work, or refuses by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from network_kinds import KINDS, draw_observations, layout_of, make_kind
from slimq.core.calibration import CalibrationSet
from slimq.core.errors import InvalidInputError
from slimq.core.onnx_policy import OnnxPolicy
from slimq.networks.checkpoint import save_network
from slimq.networks.export import export_onnx
from slimq.networks.qnetwork import QNetwork, count_parameters, named_layers
from slimq.networks.specification import HeadSpec, MLPSpec, QNetworkSpec
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.catalogue import CATALOGUE
from slimq_compression.collector import RecordedCollector
from slimq_compression.context import PassContext
from slimq_compression.graph.layers import layer_roles
from slimq_compression.network.layers import layer_roles as network_roles

PARAMETERS: dict[str, dict[str, Any]] = {
    "student": {"hidden": [6]},
    "prune_channels": {"ratio": 0.5},
    "low_rank": {"energy": 0.9},
    "prune_weights": {"sparsity": 0.2},
    "quantize_weights": {"bits": 8},
    "finetune": {"rounds": 1, "states": 32, "updates": 3, "replay_states": 64},
    "quantize_int8": {"layers": ["convolutions", "dense"]},
    "quantize_int4": {"smallest": 1},
    "store_weights": {"sparse": "delta"},
}
PLAIN = {"normalized", "normalized-image", "categories"}
"""Kinds whose units can be removed: chains of layers up to a linear head."""
STRUCTURED = {"prune_channels", "low_rank"}
FAITHFUL = {"quantize_weights", "fold", "quantize_int8", "quantize_dynamic", "store_weights"}
"""Passes that change Q-values by a few per cent at most."""


def refused(name: str, kind: str) -> str | None:
    """What the refusal of a pass says; None if it supports the kind."""
    if name in STRUCTURED and kind not in PLAIN:
        return f"^{name}.network: expected a network of plain convolutions and dense layers"
    if name == "quantize_activations":
        return "^quantize_activations"
    return None


def make_context(kind: str) -> PassContext:
    network, states = make_kind(kind), draw_observations(kind, 64)
    indices = np.arange(64, dtype=np.int32)[:, None]
    calibration = CalibrationSet(states, indices, TorchPolicy(network)(states))
    collector = RecordedCollector(layout_of(kind), calibration)
    parameters = count_parameters(network)
    return PassContext(network, layout_of(kind), calibration, collector, parameters)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in CATALOGUE if name != "finetune_td"])
def test_a_pass_keeps_the_policy_or_refuses_it_by_name(name: str, kind: str) -> None:
    context, row = make_context(kind), CATALOGUE[name]
    params = row.params(**PARAMETERS.get(name, {}))
    before = save_network(context.teacher)
    given: Any = context.teacher
    if row.phase == "graph":
        given = onnx.load_model_from_string(export_onnx(context.teacher))
    if (message := refused(name, kind)) is not None:
        with pytest.raises(InvalidInputError, match=message):
            row.apply(given, params, context)
        return
    made = row.apply(given, params, context)
    model = export_onnx(made) if row.phase == "network" else made.SerializeToString()
    policy = OnnxPolicy(model, context.observation, context.teacher.spec.actions)
    found, expected = policy(context.states), context.calibration.q_values
    assert np.isfinite(found).all()
    if name in FAITHFUL:
        assert np.abs(found - expected).max() < 0.06 * np.abs(expected).max()
    assert save_network(context.teacher) == before


@pytest.mark.parametrize("kind", KINDS)
def test_the_layers_that_feed_no_other_are_heads(kind: str) -> None:
    model = onnx.load_model_from_string(export_onnx(make_kind(kind)))
    roles = layer_roles(model)
    heads = {name for name, own in roles.items() if "head" in own}
    spec = KINDS[kind].head
    plain = {"head"} if spec.is_linear else {"advantage"}
    assert heads == ({"value", "advantage"} if spec.dueling else plain)
    for name, own in roles.items():
        kinds = {"head"} if name in heads else {"convolutions" if "conv" in name else "dense"}
        assert set(own) - {"first"} == kinds


FIRST = {
    "dueling": {"conv1"},
    "channels-last": {"conv1"},
    "normalized-image": {"conv1"},
    "several-inputs": {"conv1", "dense2"},
}
"""Layers that read the observation, where these are not `dense1`; one per encoder."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_and_its_graph_have_the_same_roles(kind: str) -> None:
    network = make_kind(kind)
    roles = network_roles(network)
    assert roles == layer_roles(onnx.load_model_from_string(export_onnx(network)))
    assert list(roles) == list(named_layers(network))
    assert {name for name, own in roles.items() if "first" in own} == FIRST.get(kind, {"dense1"})


@pytest.mark.parametrize(("dueling", "names"), [(False, {"head"}), (True, {"value", "advantage"})])
def test_a_network_without_hidden_layers_begins_with_its_head(
    dueling: bool, names: set[str]
) -> None:
    spec = QNetworkSpec(
        body=MLPSpec(hidden=()),
        observation_shape=(4,),
        observation_dtype="float32",
        head=HeadSpec(dueling=dueling),
        actions=3,
    )
    network = QNetwork(spec).eval()
    roles = network_roles(network)
    assert roles == dict.fromkeys(names, ("head", "first"))
    assert roles == layer_roles(onnx.load_model_from_string(export_onnx(network)))


def test_activation_levels_need_relus() -> None:
    context = make_context("normalized")
    params = CATALOGUE["finetune"].params(**PARAMETERS["finetune"], activation_bits=4)
    message = r"finetune.activation_bits: expected null .* received 4, and dense1.tanh"
    with pytest.raises(InvalidInputError, match=message):
        CATALOGUE["finetune"].apply(context.teacher, params, context)


@pytest.mark.parametrize("kind", ["normalized", "normalized-image"])
@pytest.mark.parametrize("name", ["student", "prune_channels", "low_rank"])
def test_a_network_made_anew_sees_normalized_observations_too(name: str, kind: str) -> None:
    context, row = make_context(kind), CATALOGUE[name]
    made = row.apply(context.teacher, row.params(**PARAMETERS[name]), context)
    assert made.normalize.mean.tolist() == context.teacher.normalize.mean.tolist()
    assert made.normalize.variance.tolist() == context.teacher.normalize.variance.tolist()


@pytest.mark.parametrize("kind", sorted(PLAIN))
@pytest.mark.parametrize(
    ("name", "everything"), [("prune_channels", {"ratio": 1.0}), ("low_rank", {"energy": 1.0})]
)
def test_a_pass_that_leaves_nothing_out_changes_nothing(
    name: str, everything: dict[str, float], kind: str
) -> None:
    context, row = make_context(kind), CATALOGUE[name]
    made = row.apply(context.teacher, row.params(**everything), context)
    found = TorchPolicy(made)(context.states)
    np.testing.assert_allclose(found, context.calibration.q_values, rtol=1e-3, atol=1e-4)
