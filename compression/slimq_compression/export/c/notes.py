"""Comments in the generated files: their origin, and a line about each layer."""

from __future__ import annotations

from slimq_compression.export.layers.kinds import (
    Clip,
    Convolution,
    Function,
    Layer,
    Quantize,
    Weighted,
)
from slimq_compression.export.layers.tensors import View
from slimq_compression.export.layers.weights import Weights
from slimq_compression.export.lowering.lower import Network
from slimq_compression.export.subject import Subject, evidence


def describe_export(subject: Subject, network: Network) -> str:
    """The paragraphs at the head of the header and the source."""
    actions = ", ".join(f"{i} {name}" for i, name in enumerate(subject.policy.actions))
    start = subject.policy.action_start
    if start:
        actions += f"; the environment counts them from {start}"
    environment = subject.policy.environment
    where = f" for {environment.id}" if environment else ""
    return "\n\n".join(
        [
            f"Policy {subject.policy.name}{where}, variant {subject.variant.name}, exported by "
            f"slimq from the ONNX model with sha256 {subject.variant.model.sha256}.",
            evidence(subject),
            f"Actions: {actions}.",
            _observation(network),
            "Compile with -ffp-contract=off, so that every machine rounds in the same way, and "
            "without -ffast-math.",
        ]
    )


def _observation(network: Network) -> str:
    """Describes what callers pass, and which part of it the policy keeps."""
    spec, window = network.spec, network.window
    shape = " x ".join(map(str, spec.frame.shape))
    if spec.stack is None:
        return f"The observation has {shape} elements of type {network.observation.element}."
    text = (
        f"Each step takes one frame of {shape} elements of type {network.observation.element}; "
        f"the newest {window.frames} are kept"
    )
    spans = [
        f"{start} to {start + size - 1} of axis {axis}"
        for axis, (start, size, full) in enumerate(
            zip(window.starts[1:], window.shape[1:], spec.shape[1:], strict=True)
        )
        if size < full
    ]
    return (
        f"{text}, of which the network sees the entries {' and '.join(spans)}."
        if spans
        else f"{text}."
    )


def describe_layer(name: str, layer: Layer) -> str:
    """A line about a layer: its shapes, weights, arithmetic and epilogue."""
    inputs = [_shape(view) for view in layer.inputs if view.buffer.place != "constant"]
    text = f"{name}: {' and '.join(inputs)} to {_shape(layer.output)}"
    if isinstance(layer, Convolution):
        geometry = layer.geometry
        text += (
            f"; kernel {geometry.kernel[0]} x {geometry.kernel[1]}, stride {geometry.strides[0]}"
        )
        if geometry.groups > 1:
            text += f", {geometry.groups} groups"
    if isinstance(layer, Weighted):
        text += f"; {describe_weights(layer.rows_of)}"
        text += ", exact sums of integers" if layer.sums_integers else ""
    names = [
        step.kind if isinstance(step, Function) else "clip" if isinstance(step, Clip) else "codes"
        for step in layer.epilogue
        if isinstance(step, (Function, Clip, Quantize))
    ]
    return f"{text}; then {', '.join(names)}" if names else text


def describe_weights(weights: Weights) -> str:
    """Describes how weights are stored."""
    if weights.table is not None:
        kind = f"{weights.bits}-bit codes of {len(weights.table)} values"
    elif weights.coded:
        kind = f"{weights.bits}-bit codes"
    else:
        kind = "float weights"
    if weights.places is None:
        return kind
    where = "a bit mask" if weights.places.kind == "mask" else "distances"
    return f"{kind}, the {weights.entries} stored ones placed by {where}"


def _shape(view: View) -> str:
    kind = view.buffer.element.removesuffix("_t")
    return f"{' x '.join(map(str, view.shape))} {kind}"
