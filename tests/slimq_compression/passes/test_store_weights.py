from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import zstandard
from onnx import TensorProto, helper, numpy_helper

from slimq.core.errors import InvalidInputError
from slimq.core.onnx_policy import make_session
from slimq.networks.export import export_onnx
from slimq.networks.grids import Codebook, LinearLevels, Mask, PowerOfTwoLevels, project
from slimq.networks.qnetwork import named_layers
from slimq_compression.graph.model import opset_of, to_bytes
from slimq_compression.graph.weights import count_weights, decoded_weights, describe_precision
from slimq_compression.passes import quantize_int8
from slimq_compression.passes.store_weights import Params, apply, require_same
from slimq_compression.storage.decoders import Sparse
from slimq_compression.storage.encodings import Encoding

GRIDS: dict[str, Any] = {
    "linear8": lambda: (LinearLevels(127),),
    "linear4": lambda: (LinearLevels(7),),
    "linear4-tensor": lambda: (LinearLevels(7, per_channel=False),),
    "linear2": lambda: (LinearLevels(1),),
    "power-of-two4": lambda: (PowerOfTwoLevels(4),),
    "codebook4": lambda: (Codebook(4),),
    "codebook2": lambda: (Codebook(2),),
    "masked": lambda: (Mask(0.9),),
    "masked-linear4": lambda: (Mask(0.8), LinearLevels(7)),
    "masked-codebook4": lambda: (Mask(0.9), Codebook(4, sparse=True)),
}
PLACED = (Sparse.BITMASK, Sparse.DELTA, Sparse.NONE)


def put_on(network: Any, grids: str) -> Any:
    """Leaves the weights on the grids, as a network pass does."""
    with torch.no_grad():
        for layer in named_layers(network).values():
            made = GRIDS[grids]()
            weight = layer.weight.detach()
            for grid in made:
                grid.advance(weight, 0.0)
                weight = grid.project(weight)
            layer.weight.copy_(project(layer.weight, made))
    return network


@pytest.fixture
def store(make_network, make_context):
    """Stores a network whose weights are on grids: (model before, model after)."""

    def run(kind: str, grids: str | None, **values: Any) -> tuple[Any, Any]:
        network = make_network(kind)
        if grids:
            put_on(network, grids)
        model = onnx.load_model_from_string(export_onnx(network))
        context = make_context(kind, network, states=4)
        return model, apply(model, Params(**values), context)

    return run


def q_values(model: onnx.ModelProto, states: Any) -> Any:
    return make_session(to_bytes(model)).run(["q_values"], {"observation": states})[0]


def elements(model: onnx.ModelProto, layer: str) -> dict[str, int]:
    """Types of a layer's stored tensors by what they hold."""
    prefix = f"{layer}.weight."
    return {
        tensor.name.removeprefix(prefix): tensor.data_type
        for tensor in model.graph.initializer
        if tensor.name.startswith(prefix)
    }


@pytest.mark.parametrize("sparse", PLACED)
@pytest.mark.parametrize("grids", list(GRIDS))
def test_every_form_is_lossless_and_folded_when_the_model_loads(
    store, make_states, operators, grids: str, sparse: Sparse
) -> None:
    before, after = store("conv", grids, sparse=sparse, smallest=1)
    wanted, found = decoded_weights(before), decoded_weights(after)
    assert wanted.keys() == found.keys()
    for name, weight in wanted.items():
        np.testing.assert_array_equal(found[name], weight)
    assert count_weights(after) == count_weights(before)
    assert operators(after) == operators(before)
    states = make_states("conv", 5)
    np.testing.assert_array_equal(q_values(after, states), q_values(before, states))


@pytest.mark.parametrize(
    ("grids", "most", "precision", "opset"),
    [
        ("linear8", 8_300, "fp32+int8", 21),
        ("linear4", 5_200, "fp32+int4", 21),
        ("linear2", 3_600, "fp32+int2", 25),
        ("power-of-two4", 5_200, "fp32+int4", 21),
        ("codebook4", 5_200, "fp32+int4", 21),
        ("codebook2", 3_500, "fp32+int2", 25),
    ],
)
def test_the_file_is_as_small_as_the_codes_and_says_so(
    store, grids: str, most: int, precision: str, opset: int
) -> None:
    before, after = store("conv", grids)
    assert len(to_bytes(before)) > 26_000
    assert len(to_bytes(after)) < most
    assert describe_precision(after) == precision
    assert (opset_of(after), after.ir_version) == (opset, 13 if opset == 25 else 10)


@pytest.mark.parametrize("sparse", [Sparse.BITMASK, Sparse.DELTA])
def test_sparse_floats_are_floats_whatever_their_places_are_stored_in(
    store, sparse: Sparse
) -> None:
    before, after = store("conv", "masked", form="dense", sparse=sparse)
    assert len(to_bytes(after)) < len(to_bytes(before)) / 3
    assert describe_precision(after) == "fp32"


def test_a_layer_in_four_bits_costs_little_more_than_its_codes_and_scales(store) -> None:
    before, after = store("conv", "linear4")
    weights = {t.name: t for t in before.graph.initializer if t.name.endswith("weight")}
    stored = [t for name, t in weights.items() if name != "head.weight"]
    saved = sum(7 * int(np.prod(t.dims)) // 2 - 4 * t.dims[0] for t in stored)
    assert len(to_bytes(before)) - len(to_bytes(after)) > saved - 155 * len(stored)


def test_weights_on_no_grid_and_small_tensors_stay_as_they_are(store) -> None:
    before, after = store("conv", None)
    assert to_bytes(before) == to_bytes(after)
    _, after = store("conv", "linear4", smallest=433)
    assert elements(after, "conv2") == {}
    assert {t.name for t in after.graph.initializer} >= {"conv2.weight", "head.weight"}
    assert elements(after, "dense1")["codes"] == TensorProto.INT4


def test_only_the_layers_that_are_named_are_stored_anew(store) -> None:
    _, after = store("conv", "linear4", layers=["conv2"])
    assert elements(after, "conv2")["codes"] == TensorProto.INT4
    assert elements(after, "dense1") == {}


def test_storing_twice_changes_nothing(store, make_context, make_network) -> None:
    _, once = store("conv", "masked-codebook4")
    context = make_context("conv", make_network("conv"), states=4)
    assert to_bytes(apply(once, Params(), context)) == to_bytes(once)


@pytest.mark.parametrize(
    ("form", "grids", "element"),
    [
        (Encoding.LINEAR, "linear4", TensorProto.INT4),
        (Encoding.POWER_OF_TWO, "power-of-two4", TensorProto.UINT4),
        (Encoding.CODEBOOK, "codebook4", TensorProto.UINT4),
    ],
)
def test_a_form_that_is_asked_for_is_taken(store, form: Encoding, grids: str, element: int) -> None:
    _, after = store("conv", grids, form=form, sparse="none")
    assert elements(after, "dense1")["codes"] == element


@pytest.mark.parametrize("form", [Encoding.LINEAR, Encoding.POWER_OF_TWO, Encoding.CODEBOOK])
def test_weights_that_are_not_of_the_form_are_refused_with_layer_and_count(
    store, form: Encoding
) -> None:
    message = rf"store_weights\.form: expected weights on a {form} grid of at most 8 bits, "
    with pytest.raises(InvalidInputError, match=message + "received 5,5.. distinct values in den"):
        store("conv", None, form=form, layers=["dense1"])


def test_dense_keeps_floats_but_may_leave_out_zeros(store) -> None:
    before, after = store("conv", "masked", form="dense")
    assert elements(after, "dense1")["values"] == TensorProto.FLOAT
    assert len(to_bytes(after)) < len(to_bytes(before)) / 2
    before, after = store("conv", "linear4", form="dense", sparse="none")
    assert to_bytes(before) == to_bytes(after)


def test_more_bits_than_needed_are_given_and_fewer_refused(store) -> None:
    _, after = store("conv", "linear4", form="linear", sparse="none", bits=8)
    assert elements(after, "dense1")["codes"] == TensorProto.INT8
    message = r"store_weights\.bits: expected at least 4 for dense1, received 2"
    with pytest.raises(InvalidInputError, match=message):
        store("conv", "linear4", form="linear", bits=2)


def test_an_unknown_layer_is_refused_with_those_that_there_are(store) -> None:
    message = (
        r"store_weights\.layers: expected first, .* or layers \(conv1, .*, head\), received 'conv9'"
    )
    with pytest.raises(InvalidInputError, match=message):
        store("conv", None, layers=["conv9"])


def test_weights_that_would_differ_are_refused() -> None:
    weight = np.ones((2, 3), np.float32)
    require_same(
        {"conv1.weight": weight, "empty": weight * np.nan},
        {"conv1.weight": weight, "empty": weight * np.nan},
    )
    message = r"form: expected unchanged weights, received 6 of 6 changed in conv1"
    with pytest.raises(InvalidInputError, match=message):
        require_same({"conv1.weight": weight}, {"conv1.weight": weight + 1e-7})


def test_weights_that_are_not_numbers_are_stored_as_they_are(make_network, make_context) -> None:
    network = put_on(make_network("conv"), "linear4")
    with torch.no_grad():
        network.features[0].weight[0, 0, 0, 0] = float("nan")
    model = onnx.load_model_from_string(export_onnx(network))
    after = apply(model, Params(), make_context("conv", network, states=4))
    assert elements(after, "conv1") == {}
    assert elements(after, "conv2")["codes"] == TensorProto.INT4


@pytest.mark.parametrize("sparse", [Sparse.BITMASK, Sparse.DELTA])
@pytest.mark.parametrize("zeros", [0, 1, 254, 255, 256, 700, 5_599, 5_600])
def test_long_runs_of_zeros_and_their_ends_are_bridged(
    make_network, make_context, sparse: Sparse, zeros: int
) -> None:
    """dense1 has 5,600 weights: `zeros` of them come first, and one that is not zero last."""
    network = make_network("conv")
    with torch.no_grad():
        weight = network.features[5].weight
        weight.copy_(torch.ones_like(weight))
        weight.view(-1)[:zeros] = 0.0
    model = onnx.load_model_from_string(export_onnx(network))
    context = make_context("conv", network, states=4)
    after = apply(model, Params(sparse=sparse, layers=("dense1",)), context)
    found = decoded_weights(after)["dense1.weight"]
    np.testing.assert_array_equal(found, weight.detach().numpy())


def test_a_mask_need_not_fill_its_last_byte(make_context, make_network) -> None:
    values = np.arange(13, dtype=np.float32).reshape(13, 1) % 3
    model = one_layer("Gemm", values, transB=1)
    after = apply(
        model, Params(sparse="bitmask", smallest=1), make_context("mlp", make_network("mlp"))
    )
    np.testing.assert_array_equal(decoded_weights(after)["w"], values)


def one_layer(operator: str, weight: Any, **attributes: Any) -> onnx.ModelProto:
    node = helper.make_node(operator, ["observation", "w"], ["q_values"], "only", **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["batch", None])],
        [helper.make_tensor_value_info("q_values", TensorProto.FLOAT, ["batch", None])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("operator", ["Gemm", "MatMul"])
def test_output_channels_are_found_on_the_last_axis_too(
    make_context, make_network, operator: str
) -> None:
    codes = np.random.default_rng(0).integers(-7, 8, (20, 6))
    scales = np.array([0.25, 0.3125, 0.5, 0.75, 1.0, 1.125], np.float32)
    weight = (codes * scales).astype(np.float32)
    context = make_context("mlp", make_network("mlp"))
    after = apply(one_layer(operator, weight), Params(form="linear", sparse="none"), context)
    assert {t.data_type for t in after.graph.initializer} == {TensorProto.INT4, TensorProto.FLOAT}
    assert opset_of(after) == 21
    np.testing.assert_array_equal(decoded_weights(after)["w"], weight)


def test_int8_weights_keep_their_kernels_and_are_stored_sparsely_or_as_codes(
    make_network, make_context, make_states, operators
) -> None:
    states = make_states("conv", 5)
    sizes = {}
    for grids in ("linear8", "masked"):
        network = put_on(make_network("conv"), grids)
        context = make_context("conv", network, states=8)
        model = onnx.load_model_from_string(export_onnx(network))
        before = quantize_int8.apply(model, quantize_int8.Params(), context)
        after = apply(before, Params(), context)
        sizes[grids] = len(to_bytes(after))
        assert operators(after) == operators(before)
        np.testing.assert_array_equal(q_values(after, states), q_values(before, states))
    assert sizes["masked"] < 0.7 * sizes["linear8"]


def test_four_bits_are_stored_and_eight_multiplied_where_the_levels_are_few(
    make_network, make_context, operators
) -> None:
    """One scale for the tensor: int8 codes of 15 levels take 15 values."""
    network = put_on(make_network("conv"), "linear4-tensor")
    context = make_context("conv", network, states=8)
    model = onnx.load_model_from_string(export_onnx(network))
    before = quantize_int8.apply(model, quantize_int8.Params(per_channel=False), context)
    after = apply(before, Params(sparse="none"), context)
    assert operators(after) == operators(before)
    assert describe_precision(after) == "int4+int8"
    assert len(to_bytes(before)) - len(to_bytes(after)) > 0.4 * 6_224


def test_int8_first_and_codebooks_behind_it_go_together(
    make_network, make_context, tmp_path: Path
) -> None:
    """The codebook leaves the first layer, which another pass has encoded, as it is."""
    network = put_on(make_network("conv"), "codebook4")
    model = onnx.load_model_from_string(export_onnx(network))
    context = make_context("conv", network, states=8)
    codes = numpy_helper.from_array(np.arange(192, dtype=np.int8).reshape(6, 2, 4, 4), "conv1.q")
    scale = numpy_helper.from_array(np.array(2.0**-7, np.float32), "conv1.s")
    kept = [t for t in model.graph.initializer if t.name != "conv1.weight"]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, codes, scale])
    inputs, output = ["conv1.q", "conv1.s"], ["conv1.weight"]
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, output))
    after = apply(model, Params(form="codebook", sparse="none"), context)
    assert describe_precision(after) == "fp32+int4+int8"
    assert codes in after.graph.initializer


def test_what_zstd_is_to_compress_is_chosen_by_what_remains(store) -> None:
    compressor = zstandard.ZstdCompressor(level=19)

    def size(grids: str, **values: Any) -> int:
        return len(compressor.compress(to_bytes(store("conv", grids, **values)[1])))

    total = dict.fromkeys((True, False), 0)
    for grids in GRIDS:
        for aware in total:
            total[aware] += size(grids, zstd_aware=aware)
    assert total[True] < total[False]


def test_constants_that_layers_have_in_common_are_stored_once(store) -> None:
    _, after = store("conv", "masked-codebook4", sparse="bitmask")
    kinds = Counter(t.name.split(".")[-1] for t in after.graph.initializer)
    assert kinds["powers"] == kinds["row"] == kinds["zero"] == kinds["axis"] == 1
    assert kinds["mask"] == 3


@pytest.mark.slow
def test_the_pong_network_sparse_in_a_codebook_is_twenty_times_smaller(store, operators) -> None:
    before, after = store("nature", "masked-codebook4")
    assert len(to_bytes(before)) > 20 * len(to_bytes(after))
    assert operators(after) == operators(before)
