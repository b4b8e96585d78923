"""Weight storage: the smallest lossless encoding of weights, decoded on loading.

Weights that a network pass has left on a grid (integers times a scale, powers of two, a codebook)
need only codes of 2, 4 or 8 bits; weights with many zeros need only the nonzero ones and their
positions: one bit per weight (bitmask), or the distance from one to the next (delta), with zeros as
fillers where a distance needs too many bits. This is the storage of Deep Compression (Han et al.
2016, arXiv:1510.00149, §2 and §3), in standard ONNX operators, which ONNX Runtime evaluates when it
loads the model. `auto` tries all combinations and measures bytes.

The layers' weights are unchanged, which is checked by running the decoder, and so are Q-values and
speed; loading takes some milliseconds longer, and memory is that of the decoded weights. int8
weights before DequantizeLinear are still multiplied as int8, and stored as codes or sparsely only
if that is smaller. Biases are not encoded.

It does not help if weights are not on a grid, as after quantize_int8 with its own scales or after
further training: `auto` then leaves them dense. Use it last: other passes need plain initializers.
It requires ONNX Runtime 1.23 for 4-bit codes and opset 25 for 2-bit codes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import zstandard
from onnx import numpy_helper
from pydantic import BaseModel, ConfigDict, Field

from slimq.core.errors import InvalidInputError
from slimq_compression.context import PassContext
from slimq_compression.graph.layers import layer_roles, output_axis
from slimq_compression.graph.model import copy_model, producers, raise_opset, weighted_nodes
from slimq_compression.graph.weights import decoded_weights
from slimq_compression.roles import chosen_layers
from slimq_compression.storage.decoders import LAYOUTS, Decoder, Known, Sparse, encode
from slimq_compression.storage.encodings import Array, Encoding, Scaled, find_encodings

ZSTD_LEVEL = 19
MAX_SIZE_RATIO = 8
"""Candidates larger than this multiple of the smallest are not tried with zstd, which is slow; they
would not become the smallest."""


class Params(BaseModel):
    """Parameters; the default is the smallest encoding."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: Encoding = Field(
        default=Encoding.AUTO,
        description="linear, power-of-two, codebook: other weights are refused; dense: floats",
    )
    sparse: Sparse = Field(
        default=Sparse.AUTO, description="storage of the positions of nonzero weights"
    )
    bits: Literal[2, 4, 8] | None = Field(
        default=None, description="bits per code; null: as few as possible"
    )
    layers: tuple[str, ...] | None = Field(
        default=None,
        description="layers by name or role (first, convolutions, dense, head); null: all",
    )
    smallest: int = Field(
        default=64, ge=1, le=2**31 - 1, description="minimum weights of a tensor to be encoded"
    )
    zstd_aware: bool = Field(
        default=False, description="minimize bytes after zstd, for recipes that compress the file"
    )


@dataclass(frozen=True)
class _Weight:
    """A weight tensor as stored, with its layer."""

    layer: str
    tensor: onnx.TensorProto
    values: Array
    axis: int

    @property
    def on_grids(self) -> bool:
        """Whether weights are floats; int8 weights were encoded by another pass."""
        return self.values.dtype == np.float32


@dataclass
class _Meter:
    """Measures a part of the file; with zstd, together with the other, similar nodes."""

    zstd: bool
    beside: bytes

    def size(self, content: bytes) -> int:
        if not self.zstd:
            return len(content)
        compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        return len(compressor.compress(self.beside + content))


def apply(model: onnx.ModelProto, params: Params, context: PassContext) -> onnx.ModelProto:
    """Replaces weights with decoders.

    Raises:
        InvalidInputError: a layer is unknown, or its weights do not fit the requested form or bits.
    """
    weights = list(_weights(model, params))
    meter = _Meter(params.zstd_aware, _nodes(model.graph.node))
    known: Known = {}
    decoders: dict[str, Decoder] = {}
    with context.progress("store weights", len(weights), "layer") as bar:
        # Small tensors can share constants of the largest.
        for weight in sorted(weights, key=lambda weight: -weight.values.size):
            decoder = _smallest(weight, params, known, meter)
            if decoder is not None:
                decoders[weight.tensor.name] = decoder
                known |= decoder.own
                meter.beside += _nodes(decoder.nodes)
            bar.update(1)
    stored = _with_decoders(model, decoders)
    require_same(decoded_weights(model), decoded_weights(stored))
    return stored


def require_same(before: Mapping[str, Array], after: Mapping[str, Array]) -> None:
    """Checks that the layers' weights are unchanged, except for the sign of zeros.

    Raises:
        InvalidInputError: a tensor differs; the error names the first one.
    """
    for name, weight in before.items():
        if not np.array_equal(weight, after[name], equal_nan=True):
            wrong = int((weight != after[name]).sum())
            received = f"{wrong:,} of {weight.size:,} changed in {name}"
            raise InvalidInputError("store_weights.form", "unchanged weights", received)


def _weights(model: onnx.ModelProto, params: Params) -> Iterator[_Weight]:
    """Yields the weight tensors to encode, each once."""
    nodes = weighted_nodes(model)
    chosen = [node.name for node in nodes]
    if params.layers is not None:
        roles = layer_roles(model)
        own = {name: roles[name] for name in chosen}
        chosen = chosen_layers(params.layers, own, "store_weights.layers")
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    made_by = producers(model)
    seen = set()
    for node in nodes:
        name = node.input[1]
        source = made_by.get(name)
        if source is not None and source.op_type == "DequantizeLinear":
            name = source.input[0]
        tensor = stored.get(name)
        if tensor is None or name in seen or node.name not in chosen:
            continue
        seen.add(name)
        values = numpy_helper.to_array(tensor)
        if values.dtype in (np.float32, np.int8) and values.size >= params.smallest:
            yield _Weight(node.name, tensor, values, output_axis(node))


def _smallest(weight: _Weight, params: Params, known: Known, meter: _Meter) -> Decoder | None:
    """The smallest requested decoder; None if the tensor itself is smaller."""
    found: list[tuple[Decoder | None, bytes]] = [
        (decoder, decoder.serialized()) for decoder in _candidates(weight, params, known)
    ]
    if not _is_forced(weight, params):
        plain = onnx.GraphProto(initializer=[weight.tensor])
        found.append((None, bytes(plain.SerializeToString(deterministic=True))))
    least = min(len(content) for _, content in found)
    worthy = [(d, content) for d, content in found if len(content) <= MAX_SIZE_RATIO * least]
    return min(worthy, key=lambda pair: meter.size(pair[1]))[0]


def _is_forced(weight: _Weight, params: Params) -> bool:
    """Whether the weight must be encoded even if that makes it larger."""
    if params.sparse not in (Sparse.AUTO, Sparse.NONE):
        return True
    return weight.on_grids and params.form not in (Encoding.AUTO, Encoding.DENSE)


def _candidates(weight: _Weight, params: Params, known: Known) -> list[Decoder]:
    name = weight.tensor.name
    found = [
        decoder
        for scaled in _requested_encodings(weight, params)
        for layout in LAYOUTS
        if params.sparse in (Sparse.AUTO, layout.sparse)
        for bits in _requested_bits(params)
        if (decoder := encode(name, scaled, layout, bits, known)) is not None
    ]
    if not found and _is_forced(weight, params):
        scaled = find_encodings(weight.values, weight.axis)[params.form]
        expected = f"at least {scaled.bits(scaled.plain)} for {weight.layer}"
        raise InvalidInputError("store_weights.bits", expected, str(params.bits))
    return found


def _requested_encodings(weight: _Weight, params: Params) -> list[Scaled]:
    available = find_encodings(weight.values, weight.axis)
    if params.form is Encoding.AUTO or not weight.on_grids:
        return list(available.values())
    if params.form not in available:
        distinct = len(np.unique(weight.values))
        received = f"{distinct:,} distinct values in {weight.layer}"
        expected = f"weights on a {params.form} grid of at most 8 bits"
        raise InvalidInputError("store_weights.form", expected, received)
    return [available[params.form]]


def _requested_bits(params: Params) -> list[int | None]:
    """Widths to try; whole bytes can be smaller after zstd, which works on bytes."""
    if params.bits is not None:
        return [params.bits]
    return [None, 8] if params.zstd_aware else [None]


def _nodes(nodes: Iterable[onnx.NodeProto]) -> bytes:
    return bytes(onnx.GraphProto(node=nodes).SerializeToString(deterministic=True))


def _with_decoders(model: onnx.ModelProto, decoders: Mapping[str, Decoder]) -> onnx.ModelProto:
    """Copies the model with decoders, which come first."""
    changed = copy_model(model)
    nodes = list(changed.graph.node)
    kept = [tensor for tensor in changed.graph.initializer if tensor.name not in decoders]
    del changed.graph.node[:], changed.graph.initializer[:]
    for decoder in decoders.values():
        changed.graph.node.extend(decoder.nodes)
        kept += decoder.tensors
    changed.graph.node.extend(nodes)
    changed.graph.initializer.extend(kept)
    raise_opset(changed, max((decoder.opset for decoder in decoders.values()), default=1))
    return changed
