"""From the last graph to the file: short names, and zstd around it.

In a model of a few kilobytes the names of tensors and nodes are a good part of the file, and
nothing reads them but passes. zstd (RFC 8878) codes what entropy is left in weights that are stored
as codes: a zero that half of all weights share takes less than the bits of its code. Readers expand
the file when they load it, so a variant's memory and speed stay as they are.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator

import numpy as np
import onnx
import zstandard
from onnx import TensorProto, numpy_helper

from slimq.networks.export import INPUT, OUTPUT
from slimq_compression.graph.model import copy_model, remove_unused
from slimq_compression.storage.decoders import content_of

SHORTEST = string.ascii_letters


def compact(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model in less: it computes the same numbers with the same kernels.

    Inner tensors are called `a`, `b`, … in order of appearance, and nodes nothing; `observation`
    and `q_values` keep their names. Equal constants become one, shapes become varints, and what an
    operator assumes anyway is left out.

    Args:
        model: without subgraphs, as this project makes them.
    """
    own = copy_model(model)
    own.graph.name = "q"
    _drop_domains(own)
    _drop_bias_zero_points(own)
    _share_constants(own)
    remove_unused(own)
    short = _ids()
    names = {INPUT: INPUT, OUTPUT: OUTPUT, "": ""}
    for node in own.graph.node:
        for tensors in (node.input, node.output):
            for index, name in enumerate(tensors):
                if name not in names:
                    names[name] = next(short)
                tensors[index] = names[name]
        node.ClearField("name")
        if node.op_type == "Conv":
            _drop_defaults(node)
    for tensor in own.graph.initializer:
        tensor.name = names[tensor.name]
        _shorten_integers(tensor)
    return own


def compress_file(content: bytes, level: int) -> bytes:
    """A zstd frame that states the size of its content, the same bytes every time.

    Args:
        content: of the file.
        level: from 1 to 22; above 19 it takes much memory and gains little here.
    """
    return zstandard.ZstdCompressor(level=level).compress(content)


def _ids() -> Iterator[str]:
    for length in itertools.count(1):
        for letters in itertools.product(SHORTEST, repeat=length):
            yield "".join(letters)


def _drop_domains(model: onnx.ModelProto) -> None:
    """Operator sets that no node is of."""
    domains = {node.domain for node in model.graph.node}
    kept = [opset for opset in model.opset_import if opset.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _drop_bias_zero_points(model: onnx.ModelProto) -> None:
    """Zero points of 32-bit codes can only be 0; those of weights are needed by the fusion."""
    codes = {t.name for t in model.graph.initializer if t.data_type == TensorProto.INT32}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in codes:
            del node.input[2:]


def _share_constants(model: onnx.ModelProto) -> None:
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    for tensor in model.graph.initializer:
        same[tensor.name] = first.setdefault(content_of(tensor), tensor.name)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)


def _drop_defaults(node: onnx.NodeProto) -> None:
    """Attributes of a convolution that say what is assumed: a kernel's shape is its weight's."""
    kept = [
        attribute
        for attribute in node.attribute
        if attribute.name != "kernel_shape"
        and not (attribute.name in ("strides", "dilations") and set(attribute.ints) == {1})
        and not (attribute.name == "pads" and set(attribute.ints) == {0})
        and not (attribute.name == "group" and attribute.i == 1)
    ]
    del node.attribute[:]
    node.attribute.extend(kept)


def _shorten_integers(tensor: onnx.TensorProto) -> None:
    """Eight bytes for each number become one or two, where that is shorter."""
    if tensor.data_type != TensorProto.INT64 or not tensor.HasField("raw_data"):
        return
    values: np.ndarray[tuple[int, ...], np.dtype[np.int64]] = numpy_helper.to_array(tensor)
    shorter = TensorProto(data_type=TensorProto.INT64, dims=tensor.dims, name=tensor.name)
    shorter.int64_data.extend(values.reshape(-1).tolist())
    if shorter.ByteSize() < tensor.ByteSize():
        tensor.CopyFrom(shorter)
