"""Models reach the browser unchanged; what its runtime lacks is decoded or refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from builders import make_calibration, make_mlp, make_policy_manifest, write_policy
from places import POLICIES
from slimq.core.errors import InvalidInputError
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.repository import Repository
from slimq_compression.export.options import Options
from slimq_compression.export.targets import export_variant
from slimq_compression.export.web.operators import (
    MAX_OPSET,
    LackingError,
    runnable,
)

SHIPPED = [
    (policy, variant)
    for policy in Repository(POLICIES).policies()
    for variant in Repository(POLICIES).variants(policy)
]


@pytest.mark.parametrize(("policy", "variant"), SHIPPED)
def test_every_shipped_variant_stays_as_it_is(policy: str, variant: str) -> None:
    _, content = Repository(POLICIES).read_model(policy, variant)
    found = runnable(content)
    assert found.content == content
    assert found.decoded == ()


@pytest.mark.parametrize(
    ("policy", "variant", "decoder"),
    [("cartpole", "sparse-obd", "CumSum")],
)
def test_decoded_weights_lose_nothing(policy: str, variant: str, decoder: str) -> None:
    repository = Repository(POLICIES)
    manifest = repository.policy(policy)
    _, content = repository.read_model(policy, variant)
    found = runnable(content, frozenset({decoder}))
    assert found.decoded == (decoder,)
    left = {node.op_type for node in onnx.load_from_string(found.content).graph.node}
    assert decoder not in left
    states = repository.calibration(manifest)
    assert states is not None
    observations, actions = states.observations(manifest.observation), len(manifest.actions)
    before, after = (
        OnnxPolicy(one, manifest.observation, actions)(observations)
        for one in (content, found.content)
    )
    assert np.array_equal(before, after)


def with_operator(operator: str, *, on_weights: bool) -> bytes:
    """The model of `tiny` with an operator of one input before or after its first layer."""
    model = onnx.load_from_string(make_mlp())
    first = model.graph.node[0]
    place = 1 if on_weights else 0
    model.graph.node.insert(0, helper.make_node(operator, [first.input[place]], ["extra"]))
    model.graph.node[1].input[place] = "extra"
    return bytes(model.SerializeToString())


def test_an_operator_on_weights_alone_is_decoded() -> None:
    content = with_operator("Erf", on_weights=True)
    found = runnable(content, frozenset({"Erf"}))
    assert found.decoded == ("Erf",)
    assert "Erf" not in {node.op_type for node in onnx.load_from_string(found.content).graph.node}
    manifest = make_policy_manifest("tiny")
    states = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    both = [OnnxPolicy(one, manifest.observation, 2)(states) for one in (content, found.content)]
    assert np.array_equal(*both)


@pytest.mark.parametrize("operator", ["RandomUniformLike", "Bernoulli"])
def test_an_operator_on_observations_is_named(operator: str) -> None:
    with pytest.raises(LackingError, match=f"^{operator}$"):
        runnable(with_operator(operator, on_weights=False))


def test_so_is_one_of_an_unknown_domain() -> None:
    model = onnx.load_from_string(make_mlp())
    model.graph.node[1].domain = "mine"
    model.opset_import.append(helper.make_opsetid("mine", 1))
    with pytest.raises(LackingError, match=r"^mine\.Relu$"):
        runnable(model.SerializeToString())


def test_a_newer_operator_set_is_lowered_where_operators_are_the_same() -> None:
    model = onnx.load_from_string(make_mlp())
    model.opset_import[0].version = MAX_OPSET + 1
    model.ir_version = 13
    content = bytes(model.SerializeToString())
    found = onnx.load_from_string(runnable(content).content)
    assert found.opset_import[0].version == MAX_OPSET
    assert [node.op_type for node in found.graph.node] == ["Gemm", "Relu", "Gemm"]


def test_a_refusal_names_the_operator_and_the_other_variants(tmp_path: Path) -> None:
    manifest = make_policy_manifest("tiny")
    models = {"random": with_operator("RandomUniformLike", on_weights=False), "fp32": make_mlp()}
    write_policy(tmp_path, manifest, make_calibration("tiny"), models)
    with pytest.raises(InvalidInputError) as caught:
        export_variant(
            Repository(tmp_path), "tiny", "random", "web", tmp_path / "export", Options()
        )
    assert not (tmp_path / "export").exists()
    assert str(caught.value) == (
        "variant: expected one without the operator RandomUniformLike, which ONNX Runtime Web "
        "lacks, received tiny/random; these do without it: fp32"
    )
