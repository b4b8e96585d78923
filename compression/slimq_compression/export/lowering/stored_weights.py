"""Recognizes how a graph stores a layer's weights: codes, codebooks, scales, masks, distances.

The counterpart of `storage.decoders` and of the quantizer's DequantizeLinear nodes. The result is
decoded and compared with what the graph computes; if anything differs, the weights become plain
floats. So an unknown decoder costs flash, but never gives a wrong weight.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from slimq_compression.export.layers.tensors import Array
from slimq_compression.export.layers.weights import Places, Weights
from slimq_compression.export.lowering.graph import Graph, to_array

MAX_CODE = 2**15 - 1
"""Largest absolute value of a code; larger integers are stored as floats."""
SPARSE_GAP_BITS = {onnx.TensorProto.UINT4: 4, onnx.TensorProto.UINT8: 8}


def find_weights(graph: Graph, name: str, *, transposed: bool = False) -> Weights:
    """The weights of a layer, a row per output.

    Args:
        graph: the graph with the tensor `name`, which depends only on constants.
        name: name of the weights, with the outputs along the first axis.
        transposed: whether the outputs are along the second of two axes instead.
    """
    value = graph.constant(name)
    if value is None:
        raise KeyError(name)
    real = value.astype(np.float32)
    matrix = real.T if transposed else real.reshape(len(real), -1)
    rows, columns = matrix.shape
    try:
        found = _Finder(graph, rows, columns, transposed=transposed).find(name)
        if found is not None and np.array_equal(found.decoded(), matrix):
            return found
    except (KeyError, ValueError, IndexError):
        pass
    return Weights(rows, columns, np.ascontiguousarray(matrix).reshape(-1))


class _Finder:
    """Follows a decoder from its last node to the stored tensors; None if it is unknown."""

    def __init__(self, graph: Graph, rows: int, columns: int, *, transposed: bool) -> None:
        self.graph, self.rows, self.columns = graph, rows, columns
        self.transposed = transposed

    def find(self, name: str) -> Weights | None:
        node = self.graph.made_by.get(name)
        if node is None:
            return self.plain(self.array(name))
        match node.op_type:
            case "Cast" | "Reshape":
                return self.find(node.input[0])
            case "Mul":
                return self.scaled(self.find(node.input[0]), self.array(node.input[1]))
            case "DequantizeLinear":
                return self.dequantized(node)
            case "Gather":
                return self.looked_up(node)
            case "ScatterElements":
                return self.by_gaps(node)
            case "Where":
                return self.by_mask(node)
        return None

    def array(self, name: str) -> Array:
        """The stored tensor behind a name, casts and reshapes skipped."""
        node = self.graph.made_by.get(name)
        if node is not None and node.op_type in ("Cast", "Reshape"):
            return self.array(node.input[0])
        return to_array(self.graph.stored[name])

    def plain(self, values: Array) -> Weights:
        if values.dtype.kind not in "iu" or np.abs(values.astype(np.int64)).max() > MAX_CODE:
            values = values.astype(np.float32)
        flat = values.T if self.transposed and values.ndim == 2 else values
        return Weights(self.rows, self.columns, np.ascontiguousarray(flat).reshape(-1))

    def scaled(self, found: Weights | None, scale: Array) -> Weights | None:
        if found is None or found.scale is not None:
            return None
        return replace(found, scale=self.per_row(scale))

    def per_row(self, scale: Array) -> Array:
        """Scales per row, `(rows,)`, or `(1,)` if there is one."""
        if scale.size == 1:
            return scale.reshape(1).astype(np.float32)
        if scale.size != self.rows:
            raise ValueError("scales of other axes than the rows")
        return np.ascontiguousarray(scale.reshape(-1), np.float32)

    def dequantized(self, node: onnx.NodeProto) -> Weights | None:
        codes, scale = (self.array(name) for name in node.input[:2])
        if len(node.input) > 2 and node.input[2]:
            zero = self.array(node.input[2]).astype(np.int32)
            if zero.any():
                axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
                shape = [1] * codes.ndim
                if zero.size > 1:
                    shape[axis] = -1
                codes = codes.astype(np.int32) - zero.reshape(shape)
        return self.scaled(self.plain(codes), scale)

    def looked_up(self, node: onnx.NodeProto) -> Weights | None:
        table, found = self.array(node.input[0]), self.find(node.input[1])
        if found is None or table.ndim != 1:
            return None
        return replace(found, table=table.astype(np.float32))

    def by_gaps(self, node: onnx.NodeProto) -> Weights | None:
        sums = self.graph.made_by[node.input[1]]
        cast = self.graph.made_by[sums.input[0]]
        gaps = self.graph.stored[cast.input[0]]
        bits = SPARSE_GAP_BITS[gaps.data_type]
        found = self.find(node.input[2])
        places = Places("gaps", to_array(gaps).astype(np.uint8), bits)
        return None if found is None else replace(found, places=places)

    def by_mask(self, node: onnx.NodeProto) -> Weights | None:
        gather = self.graph.made_by[node.input[1]]
        found = self.find(gather.input[0])
        mask = self.mask_of(node.input[0])
        if found is None or mask is None:
            return None
        return replace(found, places=Places("mask", mask.reshape(-1)))

    def mask_of(self, name: str) -> Array | None:
        """The packed bits that a chain of nodes unpacks; None if it is unknown."""
        node = self.graph.made_by[name]
        while node.op_type in ("Cast", "Reshape", "Slice"):
            node = self.graph.made_by[node.input[0]]
        return self.array(node.input[0]) if node.op_type == "BitwiseAnd" else None
