"""Weight storage: layers' weights in the smallest form that loses nothing, expanded at load.

Weights that a network pass has left on a grid (integers times a scale, powers of two, a codebook)
need only the codes of their levels, of 2, 4 or 8 bits; weights with many zeros need only the rest
and where it lies: one bit a weight (bitmask), or the distance from one to the next (delta), with
fillers where a distance is too large for its bits. Together these are the storage of Deep
Compression (Han et al. 2016, arXiv:1510.00149, §2 and §3), in standard ONNX operators, which ONNX
Runtime computes while it loads the model. `auto` tries all and measures bytes.

The weights that the layers compute with are the same, which is checked by running the decoder, and
so are Q-values and speed; loading takes some milliseconds longer, and memory is that of the
expanded weights. int8 weights behind DequantizeLinear are still multiplied as int8: they are only
stored as codes or sparsely where that is smaller. Biases stay as they are.

It fails where weights are on no grid, as after quantize_int8 with scales of its own or after
further training: `auto` then leaves them dense. Goes last: other passes want plain initializers.
Needs ONNX Runtime 1.23 for codes of 4 bits and opset 25 for codes of 2.
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
from slimq_compression.graph.layers import output_axis
from slimq_compression.graph.model import copy_model, producers, raise_opset, weighted_nodes
from slimq_compression.graph.weights import decoded_weights
from slimq_compression.storage.decoders import LAYOUTS, Decoder, Known, Sparse, encode
from slimq_compression.storage.weight_forms import Array, Form, Scaled, forms_of

ZSTD_LEVEL = 19
MOST_OVER_LEAST = 8
"""What is so many times larger than the smallest will not be smaller behind zstd, and is slow."""


class Params(BaseModel):
    """What to store how; by default whatever is smallest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: Form = Field(
        default=Form.AUTO,
        description="linear, power-of-two or codebook: refuse weights that are not; dense: floats",
    )
    sparse: Sparse = Field(
        default=Sparse.AUTO, description="how the places of weights that are not zero are stored"
    )
    bits: Literal[2, 4, 8] | None = Field(
        default=None, description="of a code; as few as hold the levels unless given"
    )
    layers: tuple[str, ...] | None = Field(
        default=None, description="names of layers, such as conv1 or head; all unless given"
    )
    smallest: int = Field(
        default=64, ge=1, le=2**31 - 1, description="tensors of fewer weights stay as they are"
    )
    zstd_aware: bool = Field(
        default=False, description="measure bytes behind zstd, for a recipe that stores with it"
    )


@dataclass(frozen=True)
class _Weight:
    """A weight tensor as stored, with the layer that it belongs to."""

    layer: str
    tensor: onnx.TensorProto
    values: Array
    axis: int

    @property
    def on_grids(self) -> bool:
        """Whether it is of floats; int8 weights have been encoded by another pass."""
        return self.values.dtype == np.float32


@dataclass
class _Meter:
    """Bytes of a part of the file; behind zstd beside the nodes of the rest, which look alike."""

    zstd: bool
    beside: bytes

    def size(self, content: bytes) -> int:
        if not self.zstd:
            return len(content)
        compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        return len(compressor.compress(self.beside + content))


def apply(model: onnx.ModelProto, params: Params, context: PassContext) -> onnx.ModelProto:
    """The model with decoders in front of its layers.

    Raises:
        InvalidInputError: a layer is unknown, or its weights are not of the form or the bits that
            were asked for.
    """
    weights = list(_weights(model, params))
    meter = _Meter(params.zstd_aware, _nodes(model.graph.node))
    known: Known = {}
    decoders: dict[str, Decoder] = {}
    with context.progress("store weights", len(weights), "layer") as bar:
        # What the largest has brought, the small ones can share.
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
    """Checks that layers compute with the same weights; zeros may have another sign.

    Raises:
        InvalidInputError: names the first tensor that differs.
    """
    for name, weight in before.items():
        if not np.array_equal(weight, after[name], equal_nan=True):
            wrong = int((weight != after[name]).sum())
            received = f"{wrong:,} of {weight.size:,} that differ in {name}"
            raise InvalidInputError("store_weights.form", "the same weights as before", received)


def _weights(model: onnx.ModelProto, params: Params) -> Iterator[_Weight]:
    """The weight tensors that are to be stored anew, each once."""
    nodes = weighted_nodes(model)
    names = [node.name for node in nodes]
    for name in params.layers or ():
        if name not in names:
            raise InvalidInputError("store_weights.layers", f"some of {', '.join(names)}", name)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    made_by = producers(model)
    seen = set()
    for node in nodes:
        name = node.input[1]
        source = made_by.get(name)
        if source is not None and source.op_type == "DequantizeLinear":
            name = source.input[0]
        tensor = stored.get(name)
        if tensor is None or name in seen or node.name not in (params.layers or names):
            continue
        seen.add(name)
        values = numpy_helper.to_array(tensor)
        if values.dtype in (np.float32, np.int8) and values.size >= params.smallest:
            yield _Weight(node.name, tensor, values, output_axis(node))


def _smallest(weight: _Weight, params: Params, known: Known, meter: _Meter) -> Decoder | None:
    """The smallest of the decoders that were asked for; None leaves the tensor as it is."""
    found: list[tuple[Decoder | None, bytes]] = [
        (decoder, decoder.serialised()) for decoder in _candidates(weight, params, known)
    ]
    if not _is_forced(weight, params):
        plain = onnx.GraphProto(initializer=[weight.tensor])
        found.append((None, bytes(plain.SerializeToString(deterministic=True))))
    least = min(len(content) for _, content in found)
    worthy = [(d, content) for d, content in found if len(content) <= MOST_OVER_LEAST * least]
    return min(worthy, key=lambda pair: meter.size(pair[1]))[0]


def _is_forced(weight: _Weight, params: Params) -> bool:
    """Whether it must not stay as it is, even if that were smaller."""
    if params.sparse not in (Sparse.AUTO, Sparse.NONE):
        return True
    return weight.on_grids and params.form not in (Form.AUTO, Form.DENSE)


def _candidates(weight: _Weight, params: Params, known: Known) -> list[Decoder]:
    name = weight.tensor.name
    found = [
        decoder
        for form in _asked_forms(weight, params)
        for layout in LAYOUTS
        if params.sparse in (Sparse.AUTO, layout.sparse)
        for bits in _asked_bits(params)
        if (decoder := encode(name, form, layout, bits, known)) is not None
    ]
    if not found and _is_forced(weight, params):
        form = forms_of(weight.values, weight.axis)[params.form]
        expected = f"at least {form.bits(form.plain)} for {weight.layer}"
        raise InvalidInputError("store_weights.bits", expected, str(params.bits))
    return found


def _asked_forms(weight: _Weight, params: Params) -> list[Scaled]:
    forms = forms_of(weight.values, weight.axis)
    if params.form is Form.AUTO or not weight.on_grids:
        return list(forms.values())
    if params.form not in forms:
        distinct = len(np.unique(weight.values))
        received = f"{distinct:,} different values in {weight.layer}"
        expected = f"weights on a {params.form} grid of at most 8 bits"
        raise InvalidInputError("store_weights.form", expected, received)
    return [forms[params.form]]


def _asked_bits(params: Params) -> list[int | None]:
    """Whole bytes can be smaller behind zstd, which finds symbols at the edges of bytes."""
    if params.bits is not None:
        return [params.bits]
    return [None, 8] if params.zstd_aware else [None]


def _nodes(nodes: Iterable[onnx.NodeProto]) -> bytes:
    return bytes(onnx.GraphProto(node=nodes).SerializeToString(deterministic=True))


def _with_decoders(model: onnx.ModelProto, decoders: Mapping[str, Decoder]) -> onnx.ModelProto:
    """A new model; decoders come first."""
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
