"""Every kind of network, as passes for any network leave it, answers in C as in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from c_exports import BOUND, compile_model, needs_compiler, q_values_of
from network_kinds import KINDS, draw_observations, layout_of, make_kind
from slimq.core.calibration import CalibrationSet
from slimq.core.onnx_policy import OnnxPolicy
from slimq.networks.export import export_onnx
from slimq.networks.qnetwork import count_parameters
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.catalogue import CATALOGUE
from slimq_compression.collector import RecordedCollector
from slimq_compression.context import PassContext

pytestmark = [pytest.mark.slow, needs_compiler]
PASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "integers": ("quantize_int8", {}),
    "integers but for the head": ("quantize_int8", {"layers": ["convolutions", "dense"]}),
    "signed integers": ("quantize_int8", {"activations": "int8", "quantize_input": True}),
    "ranges on the fly": ("quantize_dynamic", {}),
    "stored sparsely": ("store_weights", {"sparse": "delta"}),
    "folded": ("fold", {}),
}


def make_context(kind: str) -> PassContext:
    network, states = make_kind(kind), draw_observations(kind, 64)
    indices = np.arange(64, dtype=np.int32)[:, None]
    calibration = CalibrationSet(states, indices, TorchPolicy(network)(states))
    collector = RecordedCollector(layout_of(kind), calibration)
    parameters = count_parameters(network)
    return PassContext(network, layout_of(kind), calibration, collector, parameters)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("made", PASSES)
def test_the_same_q_values(made: str, kind: str, tmp_path: Path) -> None:
    context, (name, values) = make_context(kind), PASSES[made]
    row, given = CATALOGUE[name], context.teacher
    if row.phase == "graph":
        given = onnx.load_model_from_string(export_onnx(context.teacher))
    after = row.apply(given, row.params(**values), context)
    content = export_onnx(after) if row.phase == "network" else after.SerializeToString()
    actions, states = KINDS[kind].actions, draw_observations(kind, 60, seed=5)
    policy = OnnxPolicy(content, context.observation, actions)
    expected = np.concatenate([policy(state[np.newaxis]) for state in states])
    host = compile_model(content, context.observation, actions, tmp_path)
    assert np.abs(q_values_of(host, states) - expected).max() <= BOUND * np.ptp(expected)
