"""The one session configuration, and the checks when a model loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from slimq.core.errors import RepositoryError
from slimq.core.observation import ObservationSpec
from slimq.core.onnx_policy import OnnxPolicy, make_session
from slimq.core.repository import Repository

TINY = ObservationSpec(dtype="float32", shape=(4,))
FRAMES = ObservationSpec(dtype="uint8", shape=(4, 84, 84))


def make_model(
    *,
    names: tuple[str, str] = ("observation", "q_values"),
    types: tuple[int, int] = (TensorProto.FLOAT, TensorProto.FLOAT),
    shapes: tuple[list[Any], list[Any]] = (["batch", 4], ["batch", 4]),
    nodes: list[Any] | None = None,
    extra_outputs: list[Any] | None = None,
    extra_inputs: list[Any] | None = None,
    initializers: list[Any] | None = None,
) -> bytes:
    nodes = nodes or [helper.make_node("Cast", [names[0]], [names[1]], to=types[1])]
    inputs = [helper.make_tensor_value_info(names[0], types[0], shapes[0])]
    outputs = [helper.make_tensor_value_info(names[1], types[1], shapes[1])]
    graph = helper.make_graph(
        nodes,
        "policy",
        inputs + (extra_inputs or []),
        outputs + (extra_outputs or []),
        initializers or [],
    )
    opsets = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(("policy", "actions"), [("tiny", 2), ("tiny_frames", 6)])
@pytest.mark.parametrize("batch", [1, 3, 33])
def test_a_policy_answers_q_values_for_any_batch(
    repository: Repository, policy: str, actions: int, batch: int
) -> None:
    spec = repository.policy(policy).observation
    q_function = OnnxPolicy(repository.read_model(policy, "fp32")[1], spec, actions)
    observations = np.random.default_rng(0).integers(0, 9, (batch, *spec.shape)).astype(spec.dtype)
    q_values = q_function(observations)
    assert (q_values.shape, q_values.dtype) == ((batch, actions), np.float32)
    one_by_one = np.concatenate([q_function(observations[i : i + 1]) for i in range(batch)])
    np.testing.assert_allclose(q_values, one_by_one, rtol=1e-5, atol=1e-6)


def test_a_policy_computes_what_its_weights_say(mlp: Callable[..., bytes]) -> None:
    model = onnx.load_from_string(mlp(3))
    w = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    x = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    expected = np.maximum(x @ w["w1"] + w["b1"], 0) @ w["w2"] + w["b2"]
    np.testing.assert_allclose(OnnxPolicy(mlp(3), TINY, 2)(x), expected, rtol=1e-5, atol=1e-6)


def test_every_session_has_one_thread_and_does_not_spin(mlp: Callable[..., bytes]) -> None:
    options = make_session(mlp()).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    for pool in ("intra_op", "inter_op"):
        assert options.get_session_config_entry(f"session.{pool}.allow_spinning") == "0"
    with pytest.raises(RuntimeError, match=r"disable_quant_qdq"):
        options.get_session_config_entry("session.disable_quant_qdq")


FLOAT_OUT = helper.make_tensor_value_info("more", TensorProto.FLOAT, ["batch", 4])
FLOAT_IN = helper.make_tensor_value_info("also", TensorProto.FLOAT, ["batch", 4])
WRONG_SIGNATURES = [
    ({"names": ("input", "q_values")}, r"input: expected only 'observation', found \['input'\]"),
    ({"names": ("observation", "q")}, r"output: expected only 'q_values', found \['q'\]"),
    ({"extra_inputs": [FLOAT_IN]}, r"input: expected only 'observation', found .*'also'"),
    (
        {
            "extra_outputs": [FLOAT_OUT],
            "nodes": [
                helper.make_node("Identity", ["observation"], ["q_values"]),
                helper.make_node("Identity", ["observation"], ["more"]),
            ],
        },
        r"output: expected only 'q_values', found .*'more'",
    ),
    ({"types": (TensorProto.UINT8, TensorProto.FLOAT)}, r"tensor\(float\), found tensor\(uint8\)"),
    ({"types": (TensorProto.FLOAT, TensorProto.DOUBLE)}, r"expected tensor\(float\), found .*doub"),
    ({"shapes": ([1, 4], [1, 4])}, r"expected a dynamic batch axis first, found shape \[1, 4\]"),
    ({"shapes": (["batch", 5], ["batch", 5])}, r"expected shape \(batch, 4\), found .*5"),
    ({"shapes": (["batch", 4, 1], ["batch", 4, 1])}, r"expected shape \(batch, 4\), found"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG_SIGNATURES)
def test_a_model_with_another_signature_is_refused_by_name(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RepositoryError, match="tiny/model.onnx.*" + message):
        OnnxPolicy(make_model(**changes), TINY, 4, name="tiny/model.onnx")


def test_a_model_with_too_few_actions_is_refused() -> None:
    with pytest.raises(RepositoryError, match=r"'q_values': expected shape \(batch, 6\), found"):
        OnnxPolicy(make_model(), TINY, 6)


def test_a_model_that_only_runs_on_one_batch_size_is_refused() -> None:
    shape = numpy_helper.from_array(np.array([1, 4], np.int64), "shape")
    nodes = [
        helper.make_node("Reshape", ["observation", "shape"], ["one"]),
        helper.make_node("Identity", ["one"], ["q_values"]),
    ]
    model = make_model(nodes=nodes, initializers=[shape], shapes=(["batch", 4], ["other", 4]))
    with pytest.raises(RepositoryError, match=r"dynamic batch axis|does not run on a batch of 2"):
        OnnxPolicy(model, TINY, 4)


@pytest.mark.parametrize("content", [b"", b"junk", b"\x0a\x05hello", bytes(100)])
def test_bytes_that_are_not_a_model_are_refused_by_name(content: bytes) -> None:
    with pytest.raises(RepositoryError, match=r"^here\.onnx: "):
        make_session(content, "here.onnx")


def test_a_model_with_an_unknown_operator_is_refused_in_one_line() -> None:
    node = helper.make_node("NoSuchOperator", ["observation"], ["q_values"])
    with pytest.raises(RepositoryError, match="rejected by ONNX Runtime") as caught:
        OnnxPolicy(make_model(nodes=[node]), TINY, 4)
    assert "\n" not in str(caught.value)


def external_mlp(model: bytes, location: str, length: int = 128, offset: int = 0) -> bytes:
    """The MLP with its first weights in a file."""
    proto = onnx.load_from_string(model)
    tensor = proto.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location, offset, length)
    tensor.ClearField("raw_data")
    return bytes(proto.SerializeToString())


@pytest.mark.parametrize(
    "location", ["weights.bin", "../weights.bin", "/etc/hostname", "*/_ORT_MEM_ADDR_/*"]
)
def test_external_tensor_data_is_refused_before_onnx_runtime_sees_the_model(
    mlp: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(bytes(128))
    monkeypatch.setattr(ort, "InferenceSession", lambda *args, **kwargs: pytest.fail("too late"))
    with pytest.raises(RepositoryError, match=r"^tiny/x\.onnx: has external tensor data"):
        OnnxPolicy(external_mlp(mlp(), location), TINY, 2, name="tiny/x.onnx")


def test_onnx_runtime_alone_would_read_external_data_beside_the_process(
    mlp: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why the refusal is ours: a session made from bytes reads files of the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(bytes(128))
    model = external_mlp(mlp(), "weights.bin")
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    answers = session.run(None, {"observation": np.ones((2, 4), np.float32)})[0]
    assert (answers[0] == answers[1]).all()
