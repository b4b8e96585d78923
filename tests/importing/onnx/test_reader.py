from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from slimq.core._protobuf import check_model
from slimq.core.errors import InvalidInputError
from slimq.core.observation import ObservationPart, ObservationSpec
from slimq.core.onnx_policy import OnnxPolicy
from slimq.importing.checking import draw_observations, relative_error
from slimq.importing.onnx.reader import read_onnx
from slimq.importing.source import Fitted, Hints
from slimq.networks.specification import ConvSpec, MLPSpec
from slimq.networks.torch_policy import TorchPolicy

F = TensorProto.FLOAT
GENERATOR = np.random.default_rng(0)
W1, W2 = (GENERATOR.normal(size=s).astype(np.float32) for s in ((4, 8), (8, 3)))
B1, B2 = (GENERATOR.normal(size=s).astype(np.float32) for s in (8, 3))
DENSE = {"w1": W1, "b1": B1, "w2": W2, "b2": B2}
MLP = [("Gemm", "obs w1 b1", "h"), ("Relu", "h", "r"), ("Gemm", "r w2 b2", "q")]
VECTOR = ObservationSpec(dtype="float32", shape=(4,))


def make(
    path: Path,
    nodes: list[Any],
    constants: dict[str, Any],
    inputs: dict[str, Any],
    outputs: dict[str, Any] | None = None,
    opset: int = 17,
) -> Path:
    """A model of `(operator, inputs, outputs, attributes)`; shapes as `(element, [sizes])`."""
    made = []
    for operator, sources, targets, *attributes in nodes:
        given = attributes[0] if attributes else {}
        made.append(helper.make_node(operator, sources.split(), targets.split(), **given))
    graph = helper.make_graph(
        made,
        "foreign",
        [helper.make_tensor_value_info(name, *value) for name, value in inputs.items()],
        [
            helper.make_tensor_value_info(name, *value)
            for name, value in (outputs or {"q": (F, ["n", 3])}).items()
        ],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return path


def dense_q(values: Any) -> Any:
    return np.maximum(values @ W1 + B1, 0) @ W2 + B2


def check(
    path: Path,
    observation: ObservationSpec,
    expected: Any = None,
    hints: Hints = Hints(),  # noqa: B008
) -> Fitted:
    """The fitted source, after a check of its Q-values and of the published graph's batches."""
    fitted = read_onnx(path, hints).fit(observation)
    states = draw_observations(observation, 5)
    reference = fitted.reference(states)
    if expected is not None:
        assert relative_error(expected(states), reference) < 1e-5
    if fitted.network is not None:
        assert relative_error(reference, TorchPolicy(fitted.network)(states)) < 1e-5
        return fitted
    assert fitted.graph is not None
    check_model(fitted.graph, "graph")
    policy = OnnxPolicy(fitted.graph, observation, reference.shape[1])
    for size in (1, 2, 5):
        assert relative_error(reference[:size], policy(states[:size])) < 1e-5
    return fitted


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 21])
@pytest.mark.parametrize("batch", [1, "n"])
def test_a_chain_becomes_a_network(tmp_path: Path, opset: int, batch: Any) -> None:
    inputs = {"obs": (F, [batch, 4])}
    path = make(tmp_path / "x.onnx", MLP, DENSE, inputs, {"q": (F, [batch, 3])}, opset)
    fitted = check(path, VECTOR, dense_q)
    assert fitted.network is not None
    assert fitted.network.spec.body == MLPSpec(hidden=(8,))


@pytest.mark.parametrize(
    ("operators", "activation"),
    [
        ([("Tanh", "h", "r")], "tanh"),
        ([("Elu", "h", "r")], "elu"),
        ([("LeakyRelu", "h", "r", {"alpha": 0.01})], "leaky_relu"),
        ([("Sigmoid", "h", "s"), ("Mul", "h s", "r")], "silu"),
        ([("LeakyRelu", "h", "r", {"alpha": 0.2})], None),
        ([("Sigmoid", "h", "r")], None),
        ([("Softplus", "h", "r")], None),
    ],
)
def test_activations_that_slimq_lacks_stay_a_graph(
    tmp_path: Path, operators: list[Any], activation: str | None
) -> None:
    nodes = [MLP[0], *operators, MLP[2]]
    fitted = check(make(tmp_path / "x.onnx", nodes, DENSE, {"obs": (F, ["n", 4])}), VECTOR)
    assert (fitted.network is not None) == (activation is not None)
    if fitted.network is not None:
        assert fitted.network.spec.body.activation == activation


def test_matmul_with_a_bias_in_either_order(tmp_path: Path) -> None:
    nodes = [("MatMul", "obs w1", "m"), ("Add", "b1 m", "h"), ("Relu", "h", "r"),
             ("MatMul", "r w2", "k"), ("Add", "k b2", "q")]  # fmt: skip
    fitted = check(make(tmp_path / "x.onnx", nodes, DENSE, {"obs": (F, ["n", 4])}), VECTOR, dense_q)
    assert fitted.network is not None


CONV = GENERATOR.normal(size=(6, 2, 3, 3)).astype(np.float32)
LAST = GENERATOR.normal(size=(6 * 4 * 4, 3)).astype(np.float32)
IMAGE = ObservationSpec(dtype="uint8", shape=(2, 10, 10), low=0, high=255)


def image_model(path: Path, element: int, batch: Any = 1, layout: str = "first") -> Path:
    """A convolutional model, with the batch of 1 in the target shape of a Reshape."""
    front = [("Cast", "image", "f", {"to": F}), ("Div", "f scale", "x")]
    shape = [batch, 2, 10, 10] if layout == "first" else [batch, 10, 10, 2]
    if layout == "last":
        front.append(("Transpose", "x", "t", {"perm": [0, 3, 1, 2]}))
    image = "t" if layout == "last" else "x"
    nodes = [
        *front,
        ("Conv", f"{image} conv", "c", {"strides": [2, 2]}),
        ("Relu", "c", "r"),
        ("Reshape", "r shape", "flat"),
        ("MatMul", "flat last", "q"),
    ]
    shape_of_rows = np.array([batch if batch == 1 else -1, 96], np.int64)
    constants = {"scale": np.float32(255), "conv": CONV, "last": LAST, "shape": shape_of_rows}
    return make(path, nodes, constants, {"image": (element, shape)}, {"q": (F, [batch, 3])})


@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("batch", [1, "n"])
def test_images_keep_their_layout(tmp_path: Path, layout: str, batch: Any) -> None:
    path = image_model(tmp_path / "x.onnx", TensorProto.UINT8, batch, layout)
    shape = (2, 10, 10) if layout == "first" else (10, 10, 2)
    fitted = check(path, ObservationSpec(dtype="uint8", shape=shape))
    assert fitted.network is not None
    body = fitted.network.spec.body
    assert isinstance(body, ConvSpec)
    assert (body.channels, fitted.network.spec.divisor) == (
        "last" if layout == "last" else None, 255.0,
    )  # fmt: skip


def test_pixels_for_float_inputs_need_to_know_their_scale(tmp_path: Path) -> None:
    path = image_model(tmp_path / "x.onnx", F)
    with pytest.raises(InvalidInputError, match="--divisor: expected 1 if the model takes pixels"):
        read_onnx(path, Hints()).fit(IMAGE)
    states = draw_observations(IMAGE, 4)
    ones = check(path, IMAGE, hints=Hints(divisor=1.0)).reference(states)
    scaled = check(path, IMAGE, hints=Hints(divisor=255.0)).reference(states)
    np.testing.assert_allclose(ones, scaled * 255, rtol=1e-4)


def test_images_of_the_environment_are_transposed_for_the_model(tmp_path: Path) -> None:
    path = image_model(tmp_path / "x.onnx", TensorProto.UINT8)
    last = ObservationSpec(dtype="uint8", shape=(10, 10, 2))
    fitted = check(path, last)
    states = draw_observations(last, 4)
    first = read_onnx(path, Hints()).fit(IMAGE)
    expected = first.reference(np.ascontiguousarray(states.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(fitted.reference(states), expected, rtol=1e-5)
    assert "transposed" in fitted.notes[0]


def test_several_inputs_become_the_parts_of_one(tmp_path: Path) -> None:
    nodes = [("Cast", "mode", "m", {"to": F}), ("Concat", "speed m", "obs", {"axis": 1}), *MLP]
    inputs = {"speed": (F, [1, 3]), "mode": (TensorProto.INT64, [1, 1])}
    path = make(tmp_path / "x.onnx", nodes, DENSE, inputs, {"q": (F, [1, 3])})
    layout = read_onnx(path, Hints()).layout
    assert layout is not None
    assert [part.name for part in layout.parts or ()] == ["speed", "mode"]
    assert check(path, layout, dense_q).network is None
    parts = (
        ObservationPart(name="a", shape=(), categories=(5,)),
        ObservationPart(name="b", shape=(3,)),
    )
    other = ObservationSpec(dtype="float32", shape=(4,), parts=parts)
    with pytest.raises(InvalidInputError, match="a part named or shaped as"):
        read_onnx(path, Hints()).fit(other)
    renamed = tuple(
        part.model_copy(update={"name": name, "shape": shape})
        for part, name, shape in zip(parts, ("mode", "speed"), ((1,), (3,)), strict=True)
    )
    swapped = ObservationSpec(dtype="float32", shape=(4,), parts=renamed)
    check(path, swapped, lambda states: dense_q(states[:, [1, 2, 3, 0]]))


def test_a_single_code_feeds_an_input_without_further_axes(tmp_path: Path) -> None:
    table = GENERATOR.normal(size=(16, 3)).astype(np.float32)
    inputs = {"state": (TensorProto.INT64, ["n"])}
    nodes = [("Gather", "table state", "q", {"axis": 0})]
    path = make(tmp_path / "x.onnx", nodes, {"table": table}, inputs)
    part = ObservationPart(name="observation", shape=(), categories=(16,))
    observation = ObservationSpec(dtype="int32", shape=(1,), parts=(part,))
    fitted = check(path, observation, lambda states: table[states[:, 0]])
    assert fitted.network is None


def test_names_that_slimq_uses_are_freed(tmp_path: Path) -> None:
    nodes = [("Gemm", "q_values w1 b1", "observation"), ("Sigmoid", "observation", "r"), MLP[2]]
    path = make(tmp_path / "x.onnx", nodes, DENSE, {"q_values": (F, ["n", 4])})
    assert check(path, VECTOR).network is None


@pytest.mark.parametrize(
    ("element", "dtype"),
    [(TensorProto.DOUBLE, "float32"), (TensorProto.INT64, "int32"), (TensorProto.BOOL, "uint8"),
     (TensorProto.INT32, "int32"), (TensorProto.FLOAT16, "float32")],
)  # fmt: skip
def test_other_types_of_inputs_are_cast(tmp_path: Path, element: int, dtype: str) -> None:
    nodes = [("Cast", "in", "obs", {"to": F}), *MLP]
    path = make(tmp_path / "x.onnx", nodes, DENSE, {"in": (element, ["n", 4])})
    layout = read_onnx(path, Hints()).layout
    assert layout is not None
    assert layout.dtype == dtype
    check(path, layout)


def test_constant_operators_and_defaults_of_inputs_are_constants(tmp_path: Path) -> None:
    value = numpy_helper.from_array(W1, "w")
    nodes = [("Constant", "", "w1", {"value": value}), *MLP]
    constants = {key: DENSE[key] for key in ("b1", "w2", "b2")}
    inputs = {"obs": (F, ["n", 4]), "b1": (F, [8])}
    fitted = check(make(tmp_path / "x.onnx", nodes, constants, inputs), VECTOR, dense_q)
    assert fitted.network is not None


def test_functions_are_expanded(tmp_path: Path) -> None:
    path = make(tmp_path / "x.onnx", MLP, DENSE, {"obs": (F, ["n", 4])})
    model = onnx.load(path)
    body = [helper.make_node("Relu", ["x"], ["y"])]
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "Act", ["x"], ["y"], body, opsets))
    model.graph.node[1].op_type, model.graph.node[1].domain = "Act", "own"
    model.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(model, path)
    assert check(path, VECTOR, dense_q).network is not None


def test_functions_that_grow_without_end_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "x.onnx", MLP, DENSE, {"obs": (F, ["n", 4])})
    model = onnx.load(path)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    for level in range(40):
        following = helper.make_node("Relu", ["x"], ["t"])
        nodes = [following, helper.make_node("Relu", ["t"], ["y"])]
        if level < 39:
            nodes = [
                helper.make_node(f"F{level + 1}", [a], [b], domain="own")
                for a, b in (("x", "t"), ("t", "y"))
            ]
        model.functions.append(
            helper.make_function("own", f"F{level}", ["x"], ["y"], nodes, opsets)
        )
    model.graph.node[1].op_type, model.graph.node[1].domain = "F0", "own"
    model.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(model, path)
    with pytest.raises(InvalidInputError, match="at most 50,000 operators"):
        read_onnx(path, Hints())


@pytest.mark.parametrize(
    ("nodes", "outputs", "problem"),
    [
        ([*MLP, ("ArgMax", "q", "a", {"axis": 1})], {"a": (TensorProto.INT64, ["n", 1])},
         r"only the chosen action \(a int64 \(\?, 1\)\); export the values before the argmax"),
        ([*MLP, ("Softmax", "q", "p")], {"p": (F, ["n", 3])}, "probabilities of actions in 'p'"),
        ([*MLP, ("Neg", "q", "z")], {"q": (F, ["n", 3]), "z": (F, ["n", 3])},
         "name it with --output"),
        ([*MLP, ("ReduceMax", "q", "m", {"keepdims": 0})], {"m": (F, [])}, "Q-values"),
    ],
)  # fmt: skip
def test_outputs_without_q_values_are_refused(
    tmp_path: Path, nodes: list[Any], outputs: dict[str, Any], problem: str
) -> None:
    path = make(tmp_path / "x.onnx", nodes, DENSE, {"obs": (F, ["n", 4])}, outputs)
    with pytest.raises(InvalidInputError, match=problem):
        read_onnx(path, Hints()).fit(VECTOR)


def test_an_output_is_chosen_by_name_or_as_the_only_float_one(tmp_path: Path) -> None:
    nodes = [*MLP, ("Neg", "q", "z"), ("ArgMax", "q", "a", {"axis": 1})]
    outputs = {"z": (F, ["n", 3]), "a": (TensorProto.INT64, ["n", 1])}
    path = make(tmp_path / "x.onnx", nodes, DENSE, {"obs": (F, ["n", 4])}, outputs)
    assert check(path, VECTOR, lambda states: -dense_q(states)).network is None
    outputs = {"q": (F, ["n", 3]), **outputs}
    path = make(tmp_path / "y.onnx", nodes, DENSE, {"obs": (F, ["n", 4])}, outputs)
    assert check(path, VECTOR, dense_q, Hints(output="q")).network is not None
    with pytest.raises(InvalidInputError, match="--output: expected one of q float32"):
        read_onnx(path, Hints(output="nothing"))


def test_a_batch_that_cannot_be_freed_is_refused(tmp_path: Path) -> None:
    nodes = [*MLP[:2], ("ReduceMean", "r", "m", {"axes": [0], "keepdims": 1}),
             ("Sub", "r m", "d"), ("Gemm", "d w2 b2", "q")]  # fmt: skip
    path = make(tmp_path / "x.onnx", nodes, DENSE, {"obs": (F, [1, 4])})
    problem = "computes each observation of a batch by itself.*dynamic_axes"
    with pytest.raises(InvalidInputError, match=problem):
        read_onnx(path, Hints()).fit(VECTOR)
    path = make(tmp_path / "y.onnx", MLP, DENSE, {"obs": (F, [8, 4])})
    with pytest.raises(InvalidInputError, match=r"dynamic or 1, received obs float32 \(8, 4\)"):
        read_onnx(path, Hints())


def test_wrong_models_are_refused(tmp_path: Path) -> None:
    inputs = {"obs": (F, ["n", 4])}
    path = make(tmp_path / "x.onnx", MLP, DENSE, inputs, opset=8)
    with pytest.raises(InvalidInputError, match="opset 9 or later, received 8"):
        read_onnx(path, Hints())
    broken = DENSE | {"b1": np.full(8, np.nan, np.float32)}
    path = make(tmp_path / "x.onnx", MLP, broken, inputs)
    with pytest.raises(InvalidInputError, match="nan in 'b1'"):
        read_onnx(path, Hints())
    path = make(tmp_path / "x.onnx", MLP, DENSE, inputs)
    model = onnx.load(path)
    onnx.save(model, tmp_path / "e.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(InvalidInputError, match="external tensor data; save it with its weights"):
        read_onnx(tmp_path / "e.onnx", Hints())
    content = path.read_bytes()
    for length in (0, 1, 30, len(content) - 9):
        path.write_bytes(content[:length])
        with pytest.raises(InvalidInputError):
            read_onnx(path, Hints())


def test_a_loop_is_refused(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Relu", ["v"], ["w"])],
        "body",
        [helper.make_tensor_value_info(n, t, []) for n, t in (("i", 7), ("c", 9), ("v", 1))],
        [helper.make_tensor_value_info(n, t, []) for n, t in (("d", 9), ("w", 1))],
    )
    nodes = [("Loop", "count go obs", "looped", {"body": body}), ("Gemm", "looped w1 b1", "h"),
             *MLP[1:]]  # fmt: skip
    constants = DENSE | {"count": np.int64(3), "go": np.bool_(True)}
    path = make(tmp_path / "x.onnx", nodes, constants, {"obs": (F, ["n", 4])})
    with pytest.raises(
        InvalidInputError, match="a feed-forward model, received one that has a sub"
    ):
        read_onnx(path, Hints())


def test_observations_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "x.onnx", MLP, DENSE, {"obs": (F, ["n", 4])})
    five = ObservationSpec(dtype="float32", shape=(5,))
    with pytest.raises(InvalidInputError, match=r"obs float32 \(\?, 4\), received float32 \(5,\)"):
        read_onnx(path, Hints()).fit(five)


def flat(**shapes: tuple[int, ...]) -> ObservationSpec:
    parts = tuple(ObservationPart(name=name, shape=shape) for name, shape in shapes.items())
    return ObservationSpec(dtype="float32", shape=(sum(p.size for p in parts),), parts=parts)


@pytest.mark.parametrize(
    "parts",
    [
        {"p": (2,), "q": (3,)},
        {"left": (2,), "q": (3,)},
        {"p": (2,), "q": (2,)},
        {"left": (3,), "right": (2,)},
    ],
)
def test_every_input_needs_a_part_of_its_own(tmp_path: Path, parts: Any) -> None:
    nodes = [("Concat", "left right", "c", {"axis": 1}), ("MatMul", "c w", "q")]
    inputs = {name: (F, ["n", 2]) for name in ("left", "right")}
    path = make(tmp_path / "x.onnx", nodes, {"w": W1[:, :3]}, inputs)
    with pytest.raises(InvalidInputError, match=r"a part named or shaped as|observations for left"):
        read_onnx(path, Hints()).fit(flat(**parts))


def test_an_input_of_another_name_gets_the_part_that_is_left(tmp_path: Path) -> None:
    nodes = [("Concat", "left right", "c", {"axis": 1}), ("MatMul", "c w", "q")]
    inputs = {name: (F, ["n", 2]) for name in ("left", "right")}
    path = make(tmp_path / "x.onnx", nodes, {"w": W1[:, :3]}, inputs)
    observation = flat(other=(2,), left=(2,))
    states = draw_observations(observation, 5)
    found = read_onnx(path, Hints()).fit(observation).reference(states)
    expected = np.concatenate([states[:, 2:], states[:, :2]], axis=1) @ W1[:, :3]
    assert relative_error(expected, found) < 1e-5


FORMS: list[list[Any]] = [
    [("Identity", "0", "1")],
    [("Cast", "0", "1", {"to": F})],
    [("Unsqueeze", "0 axis", "1"), ("Squeeze", "1 axis", "2")],
    [("Flatten", "0", "1"), ("Reshape", "1 shape", "2"), ("Identity", "2", "3")],
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(node[0] for node in form))
@pytest.mark.parametrize(
    ("operator", "problem"),
    [
        ("Softmax", "probabilities of actions in"),
        ("LogSoftmax", "probabilities of actions in"),
        ("ArgMax", "only the chosen action"),
    ],
)
def test_choices_and_probabilities_are_found_in_another_form(
    tmp_path: Path, operator: str, problem: str, form: list[Any]
) -> None:
    attributes = {"axis": 1, "keepdims": 1} if operator == "ArgMax" else {"axis": 1}
    first: list[Any] = [(operator, "q", "0", attributes)]
    if operator == "ArgMax":
        first = [(operator, "q", "i", attributes), ("Cast", "i", "0", {"to": F})]
    width = 1 if operator == "ArgMax" else 3
    constants = DENSE | {"axis": np.array([1]), "shape": np.array([-1, width])}
    outputs = {form[-1][2]: (F, ["n", width])}
    nodes = [*MLP, *first, *form]
    path = make(tmp_path / "x.onnx", nodes, constants, {"obs": (F, ["n", 4])}, outputs)
    with pytest.raises(InvalidInputError, match=problem):
        read_onnx(path, Hints())


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [("RandomNormalLike", {"scale": 1e-6}), ("RandomUniformLike", {}), ("Bernoulli", {})],
)
def test_operators_that_draw_numbers_are_refused(
    tmp_path: Path, operator: str, attributes: dict[str, Any]
) -> None:
    nodes = [*MLP[:2], (operator, "r", "noise", attributes), ("Add", "r noise", "s"),
             ("Gemm", "s w2 b2", "q")]  # fmt: skip
    path = make(tmp_path / "x.onnx", nodes, DENSE, {"obs": (F, ["n", 4])})
    with pytest.raises(
        InvalidInputError, match=f"the operator {operator}, which draws random numbers"
    ):
        read_onnx(path, Hints())


def test_an_output_that_uses_itself_is_refused(tmp_path: Path) -> None:
    nodes = [("Identity", "b", "a"), ("Identity", "a", "b")]
    path = make(tmp_path / "x.onnx", nodes, {}, {"obs": (F, ["n", 4])}, {"a": (F, ["n", 3])})
    with pytest.raises(InvalidInputError):
        read_onnx(path, Hints()).fit(VECTOR)
