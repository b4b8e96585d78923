"""Encodes weight tensors compactly, with ONNX nodes that decode them when a model loads.

All inputs are constants and all shapes are static, so ONNX Runtime folds the nodes once, when it
optimizes the graph; none of them remains at run time. Operators whose output shape depends on
values (NonZero, Compress) are not folded: positions in a mask are therefore counted with CumSum.

A decoder has up to three parts, in order: codes become values (by a cast or a table), the values
are scattered to their positions among the zeros, and channels are multiplied by their scales.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from slimq_compression.storage.encodings import Array, Encoding, Scaled

SIGNED = {2: TensorProto.INT2, 4: TensorProto.INT4, 8: TensorProto.INT8}
UNSIGNED = {2: TensorProto.UINT2, 4: TensorProto.UINT4, 8: TensorProto.UINT8}
OPSETS = {2: 25, 4: 21, 8: 17}
"""First exported opset that has the type, by bits per code."""
BITWISE_OPSET = 18
POWERS = np.array([128, 64, 32, 16, 8, 4, 2, 1], np.uint8)
"""The bits of a byte, in the order of `numpy.packbits`."""
MIN_BFLOAT16_SCALES = 24
"""Minimum channels for which bfloat16 scales save more bytes than their Cast node takes."""


class Sparse(StrEnum):
    """Storage of the positions of nonzero weights."""

    AUTO = "auto"
    BITMASK = "bitmask"
    DELTA = "delta"
    NONE = "none"


@dataclass(frozen=True)
class Layout:
    """The weights that are stored, and the storage of their positions.

    Attributes:
        sparse: all weights (`none`), or only nonzero ones with their positions.
        gap_bits: bits per distance, if `sparse` is `delta`.
    """

    sparse: Sparse
    gap_bits: int = 8


LAYOUTS = (
    Layout(Sparse.NONE),
    Layout(Sparse.BITMASK),
    Layout(Sparse.DELTA, 4),
    Layout(Sparse.DELTA, 8),
)

Known = dict[bytes, str]
"""Names of constants already in the graph, by content."""


@dataclass
class Decoder:
    """Nodes and constants that replace an initializer; the last node's output has its name.

    Attributes:
        name: name of the weight tensor.
        known: constants of other decoders; not modified.
        nodes: nodes in order of computation.
        tensors: constants added by this decoder.
        own: names of `tensors` by content, for later decoders.
        opset: minimum opset of the nodes.
    """

    name: str
    known: Known
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    own: Known = field(default_factory=dict)
    opset: int = 17

    def serialized(self) -> bytes:
        """The decoder's part of the file."""
        graph = onnx.GraphProto(node=self.nodes, initializer=self.tensors)
        return bytes(graph.SerializeToString(deterministic=True))

    def constant(self, kind: str, element: int, values: Array, bits: int = 8) -> str:
        """Adds a constant, or finds one of equal content; returns its name."""
        tensor = TensorProto(data_type=element, dims=values.shape)
        if element == TensorProto.INT64:
            # Small integers take one byte as varints, but eight as raw data.
            tensor.int64_data.extend(values.tolist())
        else:
            tensor.raw_data = _pack(values, bits)
        self.opset = max(self.opset, OPSETS[bits])
        content = content_of(tensor)
        if content in self.known:
            return self.known[content]
        if content not in self.own:
            tensor.name = self.own[content] = f"{self.name}.{kind}"
            self.tensors.append(tensor)
        return self.own[content]

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node; returns the name of its output."""
        output = f"{self.name}.{len(self.nodes) + 1}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output


def content_of(tensor: onnx.TensorProto) -> bytes:
    """Serializes a constant without its name."""
    unnamed = TensorProto()
    unnamed.CopyFrom(tensor)
    unnamed.ClearField("name")
    return bytes(unnamed.SerializeToString(deterministic=True))


def encode(
    name: str, weight: Scaled, layout: Layout, bits: int | None, known: Known
) -> Decoder | None:
    """Encodes a weight tensor; None if its codes do not fit, or there is nothing to decode.

    Args:
        name: name of the tensor.
        weight: the exact values and scale, float32 or int8.
        layout: the values to store, and the storage of their positions.
        bits: bits per code; None for as few as possible.
        known: constants already in the graph.
    """
    decoder = Decoder(name, known)
    flat = weight.plain.reshape(-1)
    kept = flat != 0
    kept[0] |= not kept.any()  # avoids empty tensors
    if layout.sparse is Sparse.NONE:
        stored = weight.plain
    elif layout.sparse is Sparse.BITMASK:
        stored = flat[kept]
    else:
        gaps = _gaps(np.flatnonzero(kept), 2**layout.gap_bits - 1)
        stored = flat[np.cumsum(gaps)]
    fewest = weight.bits(stored)
    if weight.encoding is not Encoding.DENSE and (fewest is None or (bits or fewest) < fewest):
        return None
    values = _values(decoder, weight.encoding, stored, bits or fewest or 8)
    if layout.sparse is Sparse.BITMASK:
        values = _place_by_mask(decoder, values, kept, weight.plain)
    elif layout.sparse is Sparse.DELTA:
        values = _place_by_gaps(decoder, values, gaps, layout.gap_bits, weight.plain)
    if weight.scale is not None:
        decoder.node("Mul", values, _scales(decoder, weight.scale))
    if not decoder.nodes:
        return None
    decoder.nodes[-1].output[0] = name
    return decoder


def _values(decoder: Decoder, encoding: Encoding, stored: Array, bits: int) -> str:
    """Decodes the stored values from codes of `bits` bits."""
    if encoding is Encoding.DENSE:
        return decoder.constant("values", _element(stored), stored)
    if encoding is Encoding.LINEAR:
        codes = decoder.constant("codes", SIGNED[bits], stored.astype(np.int8), bits)
        return decoder.node("Cast", codes, to=TensorProto.FLOAT)
    values, indices = np.unique(stored, return_inverse=True)
    indices = indices.reshape(stored.shape).astype(np.uint8)
    codes = decoder.constant("codes", UNSIGNED[bits], indices, bits)
    table = decoder.constant("table", _element(values), values)
    return decoder.node("Gather", table, decoder.node("Cast", codes, to=TensorProto.INT32))


def _place_by_mask(decoder: Decoder, values: str, kept: Array, like: Array) -> str:
    """Scatters values to the positions of set bits: the i-th set bit takes the i-th value."""
    mask = decoder.constant("mask", TensorProto.UINT8, np.packbits(kept)[:, None])
    powers = decoder.constant("powers", TensorProto.UINT8, POWERS)
    spread = decoder.node("BitwiseAnd", mask, powers)
    decoder.opset = max(decoder.opset, BITWISE_OPSET)
    in_a_row = decoder.constant("row", TensorProto.INT64, np.array([-1]))
    bits = decoder.node("Reshape", decoder.node("Cast", spread, to=TensorProto.BOOL), in_a_row)
    if kept.size % 8:
        ends = [
            decoder.constant(kind, TensorProto.INT64, np.array([end]))
            for kind, end in (("start", 0), ("end", kept.size))
        ]
        bits = decoder.node("Slice", bits, *ends)
    ones = decoder.node("Cast", bits, to=TensorProto.INT32)
    axis = decoder.constant("axis", TensorProto.INT32, np.array(0, np.int32))
    before = decoder.node("CumSum", ones, axis, exclusive=1)
    # After the last set bit, the count is out of range as an index: unset bits take the first.
    picked = decoder.node("Gather", values, decoder.node("Mul", before, ones))
    zero = decoder.constant("zero", _element(like), np.zeros((), like.dtype))
    return _shaped(decoder, decoder.node("Where", bits, picked, zero), like)


def _place_by_gaps(decoder: Decoder, values: str, gaps: Array, bits: int, like: Array) -> str:
    """Scatters values to positions given by their distances (Han et al. 2016, §2)."""
    stored = decoder.constant("gaps", UNSIGNED[bits], gaps, bits)
    distances = decoder.node("Cast", stored, to=TensorProto.INT32)
    axis = decoder.constant("axis", TensorProto.INT32, np.array(0, np.int32))
    places = decoder.node("CumSum", distances, axis)
    count = decoder.constant("count", TensorProto.INT64, np.array([like.size]))
    integers = like.dtype != np.float32
    kind = {"value": helper.make_tensor("", _element(like), [1], [0])} if integers else {}
    zeros = decoder.node("ConstantOfShape", count, **kind)
    return _shaped(decoder, decoder.node("ScatterElements", zeros, places, values), like)


def _gaps(places: Array, largest: int) -> Array:
    """Distances between consecutive positions, the first from 0.

    A distance larger than `largest` is split by fillers, positions with weight zero.
    """
    distances = np.diff(places, prepend=0)
    fillers = np.maximum(distances - 1, 0) // largest
    gaps = np.full(len(places) + int(fillers.sum()), largest, np.uint8)
    gaps[np.cumsum(fillers + 1) - 1] = distances - fillers * largest
    return gaps


def _scales(decoder: Decoder, scale: Array) -> str:
    """Adds scales, as bfloat16 if that is exact and smaller."""
    raw = scale.view(np.uint32)
    if len(scale) >= MIN_BFLOAT16_SCALES and not (raw & 0xFFFF).any():
        short = (raw >> 16).astype(np.uint16)
        name = decoder.constant("scale", TensorProto.BFLOAT16, short)
        return decoder.node("Cast", name, to=TensorProto.FLOAT)
    return decoder.constant("scale", TensorProto.FLOAT, scale)


def _shaped(decoder: Decoder, values: str, like: Array) -> str:
    shape = decoder.constant("shape", TensorProto.INT64, np.array(like.shape))
    return decoder.node("Reshape", values, shape)


def _element(values: Array) -> int:
    return int(helper.np_dtype_to_tensor_dtype(values.dtype))


def _pack(values: Array, bits: int) -> bytes:
    """Packs values, little-endian; codes below 8 bits from the lowest bits of each byte up."""
    if bits == 8:
        return values.astype(values.dtype.newbyteorder("<")).tobytes()
    each = 8 // bits
    codes = values.reshape(-1).astype(np.uint8) & (2**bits - 1)
    codes = np.pad(codes, (0, -len(codes) % each)).reshape(-1, each)
    shifted = codes << (bits * np.arange(each, dtype=np.uint8))
    return bytes(np.bitwise_or.reduce(shifted, axis=1).astype(np.uint8))
