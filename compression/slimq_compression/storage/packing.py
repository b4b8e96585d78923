"""Packs the final graph into a file: short names and zstd compression.

In a model of a few kilobytes, the names of tensors and nodes are a good part of the file, and only
passes read them. zstd (RFC 8878) removes the redundancy left in codes: a zero that half of all
weights share takes fewer bits than its code. Readers expand the file on loading, so a variant's
memory and speed do not change.
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

NAME_LETTERS = string.ascii_letters


def compact(model: onnx.ModelProto) -> onnx.ModelProto:
    """Makes an equivalent, smaller model, which computes the same numbers with the same kernels.

    Inner tensors are renamed `a`, `b`, … in order of appearance, and nodes get no names;
    `observation` and `q_values` keep theirs. Equal constants are merged, shapes become varints, and
    default attributes are dropped.

    Args:
        model: a model without subgraphs.
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
    """Compresses deterministically to a zstd frame that states the size of its content.

    Args:
        content: content of the file.
        level: from 1 to 22; levels above 19 take much memory and gain little here.
    """
    return zstandard.ZstdCompressor(level=level).compress(content)


def _ids() -> Iterator[str]:
    for length in itertools.count(1):
        for letters in itertools.product(NAME_LETTERS, repeat=length):
            yield "".join(letters)


def _drop_domains(model: onnx.ModelProto) -> None:
    """Drops operator sets that no node uses."""
    domains = {node.domain for node in model.graph.node}
    kept = [opset for opset in model.opset_import if opset.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _drop_bias_zero_points(model: onnx.ModelProto) -> None:
    """Drops zero points of 32-bit codes, which are always 0; fusion needs those of weights."""
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
    """Drops default attributes of a convolution, and the kernel shape, which its weight implies."""
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
    """Stores integers as varints if that is shorter."""
    if tensor.data_type != TensorProto.INT64 or not tensor.HasField("raw_data"):
        return
    values: np.ndarray[tuple[int, ...], np.dtype[np.int64]] = numpy_helper.to_array(tensor)
    shorter = TensorProto(data_type=TensorProto.INT64, dims=tensor.dims, name=tensor.name)
    shorter.int64_data.extend(values.reshape(-1).tolist())
    if shorter.ByteSize() < tensor.ByteSize():
        tensor.CopyFrom(shorter)
