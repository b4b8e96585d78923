from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch

from slimq.core.errors import InvalidInputError
from slimq.core.onnx_policy import OnnxPolicy
from slimq.networks.export import export_onnx
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.graph.model import run_tensors, to_bytes
from slimq_compression.network.straight_through import LatentNetwork
from slimq_compression.passes import finetune, store_weights
from slimq_compression.passes.quantize_activations import Params, apply


def quantize(network: Any, context: Any, **values: Any) -> onnx.ModelProto:
    return apply(onnx.load_model_from_string(export_onnx(network)), Params(**values), context)


def answers(model: onnx.ModelProto, context: Any, actions: int) -> np.ndarray:
    return OnnxPolicy(to_bytes(model), context.observation, actions)(context.states)


def trained(network: Any, context: Any, bits: int) -> Any:
    params = finetune.Params(
        rounds=2, states=60, replay_states=60, updates=20, batch_size=16, activation_bits=bits
    )
    return finetune.apply(network, params, context)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.parametrize("bits", [2, 4])
def test_hidden_layers_answer_with_no_more_levels_than_the_bits_have(
    make_network, make_context, kind: str, bits: int
) -> None:
    network = make_network(kind)
    context = make_context(kind, network)
    model = quantize(network, context, bits=bits, calibration="min-max")
    names = [n.output[0] for n in model.graph.node if n.name.endswith("_rescale")]
    assert len(names) == sum(isinstance(m, torch.nn.ReLU) for m in network.modules())
    seen: dict[str, set[float]] = {name: set() for name in names}
    for values in run_tensors(model, names, context.states):
        for name, value in values.items():
            seen[name] |= set(np.unique(value).tolist())
    for name, levels in seen.items():
        assert 1 < len(levels) <= 2**bits, name
    full = TorchPolicy(network)(context.states)
    error = np.abs(answers(model, context, network.spec.actions) - full).max()
    assert 0 < error < (1.0 if bits == 2 else 0.3) * np.ptp(full)


@pytest.mark.parametrize("bits", [2, 4])
def test_with_learned_ranges_the_graph_computes_what_was_trained(
    make_network, make_context, bits: int
) -> None:
    teacher = make_network("conv")
    context = make_context("conv", teacher)
    network = trained(teacher, context, bits)
    latent = LatentNetwork(network.eval(), bits, torch.device("cpu"))
    for name, levels in latent._levels.items():
        levels.high = network.ranges[name][1]
    with latent.projected():
        wanted = TorchPolicy(network)(context.states)
    found = answers(quantize(network, context, bits=bits), context, 3)
    # A value in the middle of two levels may fall to either side; it then moves Q-values a little.
    close = np.abs(found - wanted) <= 1e-5 + 1e-4 * np.abs(wanted)
    assert close.mean() > 0.98


def test_weights_are_stored_as_codes_beside_it(make_network, make_context) -> None:
    network = make_network("conv")
    context = make_context("conv", network)
    model = quantize(network, context, calibration="percentile", percentile=99.9)
    stored = store_weights.apply(model, store_weights.Params(), context)
    assert np.array_equal(answers(stored, context, 3), answers(model, context, 3))


def test_the_opset_is_raised_to_the_first_with_the_type(make_network, make_context) -> None:
    network = make_network("mlp")
    context = make_context("mlp", network)
    content = onnx.load_model_from_string(export_onnx(network, 17))
    for bits, opset in ((4, 21), (2, 25)):
        model = apply(content, Params(bits=bits, calibration="kl"), context)
        assert model.opset_import[0].version == opset
    assert content.opset_import[0].version == 17


def test_learned_ranges_are_asked_for_only_where_there_are_some(make_network, make_context) -> None:
    network = make_network("mlp")
    context = make_context("mlp", network)
    with pytest.raises(InvalidInputError, match=r"quantize_activations\.calibration.*learned"):
        quantize(network, context)


def test_a_network_without_hidden_layers_is_refused(make_network, make_context) -> None:
    network = make_network("mlp")
    context = make_context("mlp", network)
    model = onnx.load_model_from_string(export_onnx(network))
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Identity"
    with pytest.raises(InvalidInputError, match="hidden layers with ReLUs, received none"):
        apply(model, Params(calibration="min-max"), context)
