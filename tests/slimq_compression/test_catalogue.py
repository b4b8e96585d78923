"""Every row of the catalogue is held to the same laws."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
import pytest
from pydantic import ValidationError

from slimq.core.onnx_policy import OnnxPolicy
from slimq.networks.checkpoint import save_network
from slimq.networks.export import export_onnx
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.catalogue import CATALOGUE, names
from slimq_compression.graph.model import to_bytes

EXAMPLES: dict[str, dict[str, Any]] = {
    "student": {"hidden": [8]},
    "prune_channels": {"ratio": 0.5, "importance": "obd", "states": 16},
    "low_rank": {"energy": 0.7},
    "prune_weights": {"sparsity": 0.7, "states": 16},
    "quantize_weights": {"bits": 4},
    "finetune": {"rounds": 2, "states": 40, "updates": 5, "batch_size": 8, "replay_states": 60},
    "finetune_td": {"rounds": 2, "steps": 40, "updates": 5, "batch_size": 8},
    "quantize_int8": {},
    "fold": {},
    "quantize_dynamic": {},
    "quantize_int4": {"smallest": 8},
    "quantize_activations": {"calibration": "min-max"},
    "store_weights": {"sparse": "delta"},
}
"""Valid parameters of each pass, small enough for a test."""

OUT_OF_RANGE: dict[str, list[tuple[str, Any]]] = {
    "student": [
        ("architecture", "resnet"),
        ("width", 0.0),
        ("window", {"rows": [0, 0]}),
        ("background", 256),
        ("convolutions", []),
        ("hidden", [0]),
        ("initial", "zeros"),
        ("share", 0.0),
        ("shape", "square"),
        ("disturb", {"noise": -1.0}),
    ],
    "prune_channels": [
        ("ratio", 0.0),
        ("ratio", 1.5),
        ("keep", [0.5, -1.0]),
        ("keep", 1.5),
        ("keep", {"dense": 0.0}),
        ("keep", {}),
        ("importance", "l3"),
        ("multiple_of", 0),
        ("states", 0),
    ],
    "low_rank": [
        ("energy", 0.0),
        ("energy", 1.5),
        ("ranks", {}),
        ("ranks", {"dense1": 0}),
        ("ranks", {"conv1": [2, 0]}),
        ("parameters", 0),
        ("parameters", "9/8"),
        ("convolutions", "perhaps"),
    ],
    "prune_weights": [
        ("sparsity", 1.0),
        ("importance", "l3"),
        ("scope", "network"),
        ("gradual", "perhaps"),
        ("exclude", "head"),
        ("states", 0),
    ],
    "quantize_weights": [
        ("form", "cubic"),
        ("bits", 1),
        ("bits", {"head": 9}),
        ("bits", {}),
        ("highest", 200),
        ("per_channel", "perhaps"),
        ("block", 8),
        ("fit", "maybe"),
        ("layers", []),
        ("rounding", "up"),
        ("correct_bias", "perhaps"),
    ],
    "finetune": [
        ("loss", "l1"),
        ("units", "metres"),
        ("temperature", 0.0),
        ("q_weight", -1.0),
        ("rounds", 0),
        ("teacher_rounds", -1),
        ("states", 0),
        ("keep_every", 0),
        ("replay_states", 0),
        ("updates", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("gradient_clip", 0.0),
        ("epsilon", 1.5),
        ("activation_bits", 1),
        ("slimming", -1.0),
        ("precision", "fp8"),
        ("disturb", {"noise": -1.0}),
        ("conditions", "standard"),
        ("labels", "noisy"),
    ],
    "finetune_td": [
        ("gamma", 1.0),
        ("clip_rewards", "perhaps"),
        ("teacher_weight", -1.0),
        ("rounds", 0),
        ("steps", 0),
        ("replay_rounds", 0),
        ("updates", 0),
        ("target_update_every", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("gradient_clip", 0.0),
        ("epsilon", 1.5),
        ("precision", "fp8"),
        ("conditions", "standard"),
    ],
    "store_weights": [
        ("form", "cubic"),
        ("sparse", "csr"),
        ("bits", 3),
        ("layers", "head"),
        ("smallest", 0),
        ("zstd_aware", "perhaps"),
    ],
    "quantize_int8": [
        ("activations", "int4"),
        ("portable", "perhaps"),
        ("layers", []),
        ("percentile", 50.0),
        ("calibration", "median"),
        ("states", 0),
        ("per_channel", "perhaps"),
        ("quantize_input", "maybe"),
        ("bias_correction", 3),
    ],
    "fold": [("batch_norm", "perhaps"), ("input_scale", 3)],
    "quantize_activations": [
        ("bits", 3),
        ("calibration", "median"),
        ("percentile", 50.0),
        ("states", 0),
    ],
    "quantize_dynamic": [("per_channel", "perhaps"), ("portable", 3), ("layers", [])],
    "quantize_int4": [
        ("block_size", 48),
        ("smallest", 0),
        ("states", 0),
        ("bias_correction", "perhaps"),
    ],
}
KINDS = ["mlp", "conv"]

every_pass = pytest.mark.parametrize("name", list(CATALOGUE))
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def apply(make_network, make_context):
    """Applies a pass to a fresh network or its graph: (given before, given after, result)."""

    def run(name: str, kind: str, seed: int = 0) -> tuple[bytes, bytes, Any]:
        row = CATALOGUE[name]
        teacher = make_network(kind)
        given: Any = copy.deepcopy(teacher)
        write = save_network
        if row.phase == "graph":
            given = onnx.load_model_from_string(export_onnx(teacher))
            write = to_bytes
        before = write(given)
        params = row.params.model_validate(EXAMPLES[name])
        result = row.apply(given, params, make_context(kind, teacher, seed))
        return before, write(given), result

    return run


def file_of(name: str, result: Any) -> bytes:
    """The ONNX file that a result leads to."""
    return export_onnx(result) if CATALOGUE[name].phase == "network" else to_bytes(result)


@every_pass
def test_every_row_is_complete(name: str) -> None:
    row = CATALOGUE[name]
    assert name in EXAMPLES
    assert name in OUT_OF_RANGE
    assert name in names(row.phase)
    assert row.apply.__module__ == f"slimq_compression.passes.{name}"
    for field in row.params.model_fields.values():
        assert field.description


@every_pass
@every_kind
def test_the_input_is_left_as_it_was(apply, name: str, kind: str) -> None:
    before, after, _ = apply(name, kind)
    assert before == after


@every_pass
@every_kind
def test_the_same_seed_gives_the_same_result(apply, name: str, kind: str) -> None:
    first, second = (file_of(name, apply(name, kind)[2]) for _ in range(2))
    assert first == second


@every_pass
@every_kind
def test_names_stay_and_q_values_are_finite(
    apply, make_context, make_network, name: str, kind: str
) -> None:
    context = make_context(kind, make_network(kind))
    policy = OnnxPolicy(
        file_of(name, apply(name, kind)[2]), context.observation, context.teacher.spec.actions
    )
    assert np.isfinite(policy(context.states)).all()


@every_pass
@every_kind
def test_a_networks_specification_stays_true(apply, make_states, name: str, kind: str) -> None:
    if CATALOGUE[name].phase == "graph":
        pytest.skip("graphs have no specification")
    network = apply(name, kind)[2]
    assert not network.training
    rebuilt = type(network)(network.spec)
    rebuilt.load_state_dict(network.state_dict())
    states = make_states(kind, 4)
    np.testing.assert_array_equal(TorchPolicy(rebuilt)(states), TorchPolicy(network)(states))


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [(name, *case) for name, cases in OUT_OF_RANGE.items() for case in cases],
)
def test_a_parameter_out_of_range_is_refused_by_name(name: str, field: str, value: Any) -> None:
    values = EXAMPLES[name] | {field: value}
    if field == "keep":
        values.pop("ratio")
    with pytest.raises(ValidationError) as caught:
        CATALOGUE[name].params.model_validate(values)
    assert caught.value.errors()[0]["loc"][0] == field


@every_pass
def test_an_unknown_parameter_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        CATALOGUE[name].params.model_validate(EXAMPLES[name] | {"unknown": 1})


@every_pass
def test_every_parameter_has_a_value_that_is_refused(name: str) -> None:
    assert {field for field, _ in OUT_OF_RANGE[name]} == set(CATALOGUE[name].params.model_fields)
